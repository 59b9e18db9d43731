"""Merge the responses of a generation run, keep the good ones, and add the identity conversations.

Reads   the run's shards, held against its manifest if it has one; the rules' texts and the
        principle prompt in prompts/; the conversations about the assistant itself.
Writes  OUTPUT.json (or .jsonl): training records for step 3, shuffled. Beside it
        OUTPUT.report.json and .report.html (what was dropped and why), OUTPUT.README.md (a
        data-set card), and with --parquet the folder OUTPUT_dataset for `datasets.load_dataset`.

    python merge_and_filter_self_align_with_dummy.py \\
        --data_file_pattern "llama2_70b_self_align_32shards_*.jsonl" \\
        --dummy_data_file ../dummy_data/vicuna_dummy_data.json \\
        --output_file llama2_70b_self_align_merged.json
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from base_model_check import SAMPLE, read_principles
from dummy_conversations import DUMMY_DATA, draw_share, read_dummy_records
from filter_report import build_report, render_card, render_page
from filter_settings import PROMPTS, FilterSettings, number
from filter_statistics import FilterStatistics
from hand_written_text import read_text
from response_filters import ResponseFilter
from response_judging import JudgingSettings, judge_all
from response_shards import ResponseReader, manifest_path
from run_manifest import hash_text
from run_shards import RunShards, find_gaps, find_run_shards
from tqdm import tqdm
from training_file import (
    COLUMNS,
    MergedFiles,
    ShuffledRecords,
    encode_record,
    write_parquet,
    write_records,
)
from user_error import CommandLine, TryAgainError, UserError, run_script

logger = logging.getLogger("merge")

BYTES_FOR_A_WORKER = 20_000_000  # less is judged before a second process has started
BYTES_OF_A_RESPONSE = 1500  # about


def parse_args() -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_file_pattern", required=True, help='"NAME_32shards_*.jsonl", in quotes')
    add(
        "--dummy_data_file",
        type=Path,
        default=DUMMY_DATA,
        help="conversations about the assistant itself (default: %(default)s)",
    )
    add("--output_file", type=Path, help="merged.json or merged.jsonl")
    add(
        "--prompt_file",
        type=Path,
        default=PROMPTS / "watson_self_align_prompt.txt",
        help="the run's principle prompt, which numbers and names the principles "
        "(default: %(default)s)",
    )
    add("--assistant_name", default="Dromedary", help="default: %(default)s")
    add("--developer", default="the Self-Align team", help="default: %(default)s")
    add("--seed", type=int, default=42, help="of order and examples (default: %(default)s)")
    add("--allow_missing", action="store_true", help="go on where answers are missing or torn")
    add("--allow_empty", action="store_true", help="go on where no generated response is kept")
    add(
        "--identity_share",
        type=number(float, 0, 1),
        default=1.0,
        help="at most this share of hand-written conversations, drawn by --seed (default: all)",
    )
    add("--keep_thoughts", action="store_true", help="add each response's thoughts to its record")
    add("--published_rules", action="store_true", help="decide as the first implementation did")
    add("--parquet", action="store_true", help="also write a folder that `datasets` loads")
    add(
        "--explain", metavar="ID", help="print one response's path through the rules, write nothing"
    )
    FilterSettings.add_arguments(parser)
    args = parser.parse_args()
    if args.explain is None and args.output_file is None:
        parser.error("--output_file is required (or --explain ID)")
    if args.output_file is not None and args.output_file.suffix not in (".json", ".jsonl"):
        parser.error(f"--output_file {args.output_file} must end with .json or .jsonl")
    for flag in ("assistant_name", "developer"):
        if not getattr(args, flag).strip() or not getattr(args, flag).isprintable():
            parser.error(f"--{flag} {getattr(args, flag)!r} is no name; give one line of text")
    return args


def main() -> None:
    args = parse_args()
    run = find_run_shards(args.data_file_pattern)
    if run.dialogue.rules == "none":
        raise UserError(
            f"{manifest_path(run.name)}: the run's prompt has rules = 'none' in its format; its "
            "responses are no self-aligned ones, and nothing here fits them"
        )
    rules = FilterSettings.from_arguments(args, run.dialogue, args.published_rules)
    if args.explain is not None:
        print(explain(args.explain, run, ResponseFilter(rules)))
        return
    check_output_file(args, run)
    dummy_records = read_dummy_records(args.dummy_data_file, args.assistant_name, args.developer)
    settings = judging_settings(args, rules, run)
    reader = ResponseReader(run.paths)
    with (
        MergedFiles(args.output_file, parquet=args.parquet) as files,
        ShuffledRecords(files.folder, args.seed) as records,
    ):
        statistics = judge_responses(run, reader, settings, records)
        gaps = check_complete(run, reader, args.allow_missing)
        chosen = draw_share(dummy_records, statistics.kept, args.identity_share, args.seed)
        for record in chosen:
            thoughts = {"thoughts": ""} if args.keep_thoughts else {}
            records.add(record["id"], encode_record({**record, **thoughts}))
        report = build_report(
            statistics,
            settings.principles,
            dummy=len(chosen),
            dummy_left_out=len(dummy_records) - len(chosen),
            run=describe_run(run, reader, gaps),
            settings=describe_settings(args, rules),
        )
        log_outcomes(report)
        if not (statistics.kept or args.allow_empty):
            raise UserError(
                "none of the responses was kept, and nothing was written. Do the rules' texts fit "
                "the principle prompt? Look at one with --explain ID, or go on with --allow_empty"
            )
        write_files(files, records, report)
        files.publish()
    logger.info("%d training records: %s", report["training_records"]["total"], files.training)
    logger.info("report: %s (%s)", files.page, files.report)


def explain(response_id: str, run: RunShards, response_filter: ResponseFilter) -> str:
    """A response's path through the rules, in words; UserError if no shard has it."""
    for shard in run.paths:
        for record in ResponseReader([shard]).read():
            if record["id"] == response_id:
                return f"{shard}\n{response_filter.explain(record)}"
    raise UserError(f"none of the {len(run.paths)} shards has a response with the id {response_id}")


def check_output_file(args: argparse.Namespace, run: RunShards) -> None:
    """Raises UserError if the merge would write over what it reads."""
    read = {"is one of the shards": run.paths, "is the dummy data": [args.dummy_data_file]}
    if run.manifest is not None:
        read["is the run's manifest"] = [manifest_path(run.name)]
        read["holds the run's prompts"] = [Path(run.manifest.input_file)]
    for what, paths in read.items():
        if args.output_file.resolve() in [path.resolve() for path in paths]:
            raise UserError(f"--output_file {args.output_file} {what}; give another name")


def judging_settings(
    args: argparse.Namespace, rules: FilterSettings, run: RunShards
) -> JudgingSettings:
    """The settings that these arguments ask for; reads the principle prompt."""
    principle_prompt = read_text(args.prompt_file, "--prompt_file").rstrip()
    principles = read_principles(principle_prompt)
    if run.manifest is None:
        expected = sum(path.stat().st_size for path in run.paths) / BYTES_OF_A_RESPONSE
    else:
        expected = run.manifest.prompts
        if hash_text(principle_prompt) != run.manifest.principle_prompt:
            logger.warning(
                "%s is not the principle prompt of the run, so numbers and names of principles are "
                "not checked; give the run's with --prompt_file",
                args.prompt_file,
            )
            principles = {}
    return JudgingSettings(
        rules,
        args.assistant_name,
        args.seed,
        keep_thoughts=args.keep_thoughts,
        principles=principles,
        measured_share=SAMPLE / max(expected, SAMPLE),
    )


def judge_responses(
    run: RunShards, reader: ResponseReader, settings: JudgingSettings, records: ShuffledRecords
) -> FilterStatistics:
    """Judges all responses, puts the kept ones into `records`, and returns the counts."""
    size = sum(path.stat().st_size for path in run.paths)
    workers = min(len(os.sched_getaffinity(0)), 1 + size // BYTES_FOR_A_WORKER)
    statistics = FilterStatistics()
    with tqdm(desc="judge", total=size, unit="B", unit_scale=True, mininterval=1) as progress:
        for batch in judge_all(reader.read(progress.update), settings, workers):
            statistics.merge(batch.statistics)
            for record_id, line in batch.kept:
                records.add(record_id, line)
            rate = statistics.judged / max(progress.format_dict["elapsed"], 1e-9)
            progress.set_postfix_str(f"{rate:,.0f} responses/s", refresh=False)
    return statistics


def check_complete(run: RunShards, reader: ResponseReader, allow_missing: bool) -> str:
    """What the shards lack, in words; TryAgainError for it unless that is allowed.

    Shards without any response are never allowed.
    """
    if not reader.answered:
        raise TryAgainError(f"the {len(run.paths)} shards of {run.name} hold no response")
    gaps = find_gaps(run, reader)
    if gaps and not allow_missing:
        raise TryAgainError(gaps)
    if gaps:
        logger.warning("incomplete: %s", gaps)
    return gaps


def describe_run(run: RunShards, reader: ResponseReader, gaps: str) -> dict[str, Any]:
    """Where the responses come from, for the report."""
    return {
        "name": run.name.name,
        "shards": len(run.paths),
        "group_sizes": run.group_sizes,
        "manifest": None if run.manifest is None else asdict(run.manifest),
        "gaps": gaps,
        "torn_shards": [path.name for path in reader.torn],
        "repeated_answers": reader.repeated,
        "differing_answers": reader.differing,
    }


def describe_settings(args: argparse.Namespace, rules: FilterSettings) -> dict[str, Any]:
    """How the responses are merged, for report and card."""
    return {
        "assistant_name": args.assistant_name,
        "developer": args.developer,
        "seed": args.seed,
        "keep_thoughts": args.keep_thoughts,
        "identity_share": args.identity_share,
        "codename": rules.dialogue.codename,
        **{name: value for name, value in asdict(rules).items() if name != "dialogue"},
        "blacklist": sorted(rules.blacklist),
    }


def write_files(files: MergedFiles, records: ShuffledRecords, report: dict[str, Any]) -> None:
    """Writes all files beside the places where they shall stand."""
    title = files.training.stem
    write_records(with_progress(records), files.beside(files.training), files.training.suffix)
    texts = {
        files.report: json.dumps(report, ensure_ascii=False, indent=1) + "\n",
        files.page: render_page(report, title),
        files.card: render_card(report, title, with_configs=False),
    }
    if files.dataset_files:
        card, parquet = files.dataset_files
        texts[card] = render_card(report, title, with_configs=True)
        columns = [*COLUMNS, *["thoughts"] * report["settings"]["keep_thoughts"]]
        write_parquet(with_progress(records), files.beside(parquet), columns)
    for path, text in texts.items():
        files.beside(path).write_text(text, encoding="utf-8")


def with_progress(records: ShuffledRecords) -> Iterator[bytes]:
    return iter(tqdm(records, desc="write", total=len(records), unit=" records", mininterval=1))


def log_outcomes(report: dict[str, Any]) -> None:
    """Says what was kept, why the rest went, and what the report warns of."""
    responses = report["responses"]
    logger.info(
        "kept %d of %d responses (%.1f %%), %d of them finished",
        *(responses["kept"], responses["judged"]),
        *(100 * responses["kept"] / max(responses["judged"], 1), responses["finished"]),
    )
    for rule in report["dropped"]:
        if rule["responses"]:
            logger.info(
                "  dropped %7d  %-15s  %s", *(rule["responses"], rule["rule"], rule["meaning"])
            )
    logger.info("base model: %s", report["base_model"]["verdict"])
    for warning in report["warnings"]:
        logger.warning("warning: %s", warning)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_script(main))
