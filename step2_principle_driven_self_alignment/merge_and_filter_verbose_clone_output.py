"""Merge the long replies of Verbose Cloning into training records, and drop the bad ones.

Reads   the run's shards and manifest; the verbose prompt; --merged_file, the records that the
        requests were made of, or --dummy_data_file, conversations about the assistant itself.
Writes  OUTPUT.json (or .jsonl): training records for step 3, shuffled, and OUTPUT.report.json:
        lengths before and after by source, how replies ended and where they were cut.

With --merged_file a record that has no kept long reply stays as it is, hand-written ones too;
without it, the conversations of --dummy_data_file are added.

    python merge_and_filter_verbose_clone_output.py --merged_file merged.json \\
        --data_file_pattern "verbose_*shards_*.jsonl" --output_file verbose_merged.json
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dummy_conversations import DUMMY_DATA, draw_share, read_dummy_records
from filter_settings import PROMPTS, number
from filter_statistics import source_of
from hand_written_text import read_text
from prompt_file import read_rows
from response_shards import ResponseReader
from run_shards import RunShards, find_gaps, find_run_shards
from training_file import MergedFiles, ShuffledRecords, encode_record, write_records
from user_error import CommandLine, TryAgainError, UserError, run_script
from verbose_filters import RULES, VerboseFilter, VerboseReply

if TYPE_CHECKING:  # takes a while to import, which --help and refused flags do without
    import pandas

logger = logging.getLogger("merge")

PROMPT_FILE = PROMPTS / "verbose_cloning_prompt.txt"
RESPONSE_FIELDS = frozenset(("output", "finish_reason", "prompt_tokens", "output_tokens"))


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data_file_pattern", required=True, help='"NAME_32shards_*.jsonl", in quotes')
    add("--output_file", type=Path, required=True, help="merged.json or merged.jsonl")
    add("--merged_file", type=Path, help="the training records that the requests were made of")
    add("--dummy_data_file", type=Path, default=DUMMY_DATA, help="without --merged_file: added")
    add("--prompt_file", type=Path, default=PROMPT_FILE, help="the verbose prompt of the run")
    add("--assistant_name", default="Dromedary", help="in the conversations of --dummy_data_file")
    add("--developer", default="the Self-Align team", help="in the same")
    add("--identity_share", type=number(float, 0, 1), default=1.0, help="at most, of these")
    add("--seed", type=int, default=42, help="of the records' order")
    add("--min_length", type=number(int, 0), default=128, help="of a reply that did not end")
    add("--max_list_items", type=number(int, 1), default=12, help="longer lists are cut")
    add("--allow_missing", action="store_true", help="go on where answers are missing")
    add("--allow_empty", action="store_true", help="go on where no long reply is kept")
    args = parser.parse_args()
    if args.output_file.suffix not in (".json", ".jsonl"):
        parser.error(f"--output_file {args.output_file} must end with .json or .jsonl")
    return args


def main() -> None:
    args = parse_args()
    run = find_run_shards(args.data_file_pattern)
    check_arguments(args, run)
    other_records = read_other_records(args)
    verbose_filter = VerboseFilter(
        read_text(args.prompt_file, "--prompt_file"),
        run.dialogue,
        min_length=args.min_length,
        max_list_items=args.max_list_items,
    )
    reader, judged, kept = ResponseReader(run.paths), [], {}
    for record in reader.read():
        reply = verbose_filter.judge(record)
        judged.append(describe(record, reply))
        if reply.reason is None:
            kept[record["id"]] = training_record(record, reply)
    check_complete(run, reader, args.allow_missing)
    report = build_report(judged, kept, args)
    log_outcomes(report)
    if not (kept or args.allow_empty):
        raise UserError(
            "none of the long replies was kept, and nothing was written; --allow_empty goes on"
        )
    others = [record for record in other_records if record["id"] not in kept]
    if args.merged_file is None:
        others = draw_share(others, len(kept), args.identity_share, args.seed)
    report["training_records"] = {"total": len(kept) + len(others), "long_replies": len(kept)}
    write_files(args, [*kept.values(), *others], report)


def check_arguments(args: argparse.Namespace, run: RunShards) -> None:
    """Raises UserError for the shards of another stage and an output over an input."""
    if run.dialogue.rules != "none":
        raise UserError(
            f"the shards of {run.name} are no answers to a verbose prompt; "
            "merge_and_filter_self_align_with_dummy.py merges those of step 2"
        )
    inputs = [*run.paths, args.dummy_data_file, *([args.merged_file] if args.merged_file else [])]
    if args.output_file.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"--output_file {args.output_file} is an input; give another name")


def read_other_records(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The records that stand beside the long replies."""
    if args.merged_file is None:
        return read_dummy_records(args.dummy_data_file, args.assistant_name, args.developer)
    records = []
    for row_number, record in read_rows(args.merged_file):
        if not isinstance(record, dict) or not isinstance(record.get("output"), str):
            raise UserError(f"{args.merged_file}, row {row_number}: no training record")
        records.append({name: value for name, value in record.items() if name != "example_id"})
    return records


def describe(record: dict[str, Any], reply: VerboseReply) -> dict[str, Any]:
    """One row of the report's table. Lengths are None where a reply was dropped."""
    kept = reply.reason is None
    return {
        "source": source_of(record),
        "reason": reply.reason or "kept",
        "cut": reply.cut or "none",
        "finished": reply.finished if kept else None,
        "before": record.get("brief_characters") if kept else None,
        "after": len(reply.text) if kept else None,
        "tokens": record.get("output_tokens") if kept else None,
    }


def training_record(record: dict[str, Any], reply: VerboseReply) -> dict[str, Any]:
    """The training record of a kept long reply; fields that we don't know travel along."""
    fields = {name: value for name, value in record.items() if name not in RESPONSE_FIELDS}
    fields.pop("brief_characters", None)
    return {**fields, "output": reply.text, "finished": reply.finished}


def check_complete(run: RunShards, reader: ResponseReader, allow_missing: bool) -> None:
    gaps = find_gaps(run, reader)
    if gaps and not allow_missing:
        raise TryAgainError(gaps)
    if gaps:
        logger.warning("incomplete: %s", gaps)


def build_report(
    judged: list[dict[str, Any]], kept: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Lengths, ends and cuts, by source and in all; shares are between 0 and 1."""
    import pandas

    if not judged:
        raise TryAgainError("the shards hold no response; start the generation again")
    table = pandas.DataFrame(judged)
    good = table[table["reason"] == "kept"]
    by_source = {source: summarise(rows) for source, rows in good.groupby("source")}
    return {
        "responses": {"judged": len(table), "kept": len(kept)},
        "dropped": {
            rule: int(count) for rule in RULES if (count := (table["reason"] == rule).sum())
        },
        "cuts_of_kept": {cut: int(count) for cut, count in good["cut"].value_counts().items()},
        "by_source": {**by_source, **({"all": summarise(good)} if len(good) else {})},
        "settings": {
            "seed": args.seed,
            "min_length": args.min_length,
            "max_list_items": args.max_list_items,
        },
    }


def summarise(rows: "pandas.DataFrame") -> dict[str, float]:
    """Median lengths in characters and tokens, and shares, of kept replies."""
    before = rows["before"].astype(float)
    return {
        "replies": len(rows),
        "characters_before": float(before.median()) if before.notna().any() else None,
        "characters_after": float(rows["after"].astype(float).median()),
        "tokens_after": float(rows["tokens"].astype(float).median()),
        "ended": round(float(rows["finished"].astype(float).mean()), 4),
        "cut": round(float((rows["cut"] != "none").mean()), 4),
    }


def log_outcomes(report: dict[str, Any]) -> None:
    """Says what was kept and how much longer it became."""
    import pandas

    responses = report["responses"]
    logger.info("kept %d of %d long replies", responses["kept"], responses["judged"])
    for rule, count in report["dropped"].items():
        logger.info("  dropped %7d  %-16s  %s", count, rule, RULES[rule])
    for cut, count in report["cuts_of_kept"].items():
        if cut != "none":
            logger.info("  cut     %7d  at a %s", count, cut)
    table = pandas.DataFrame(report["by_source"]).T
    if len(table):
        logger.info("medians and shares by source:\n%s", table.to_string())


def write_files(
    args: argparse.Namespace, training_records: list[dict[str, Any]], report: dict[str, Any]
) -> None:
    """Writes records and report beside their places and puts them there together."""
    with (
        MergedFiles(args.output_file, parquet=False) as files,
        ShuffledRecords(files.folder, args.seed) as records,
    ):
        for record in training_records:
            records.add(record["id"], encode_record(record))
        write_records(iter(records), files.beside(files.training), files.training.suffix)
        text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        files.beside(files.report).write_text(text, encoding="utf-8")
        files.publish([files.report, files.training])
    logger.info("%d training records: %s", len(training_records), args.output_file)
    logger.info("report: %s", files.report)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_script(main))
