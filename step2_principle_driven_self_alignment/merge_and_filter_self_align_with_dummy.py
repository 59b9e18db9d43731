"""Merge the responses of a generation run, keep the good ones, and add the identity conversations.

Reads   the run's shards, held against its manifest if it has one; the rules' texts in prompts/; the
        conversations about the assistant itself.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dataset_card import dataset_card
from dummy_conversations import read_dummy_records
from filter_report import build_report, render_page
from filter_settings import FilterSettings
from filter_statistics import FilterStatistics
from merged_files import MergedFiles
from response_judging import JudgingSettings, judge_all
from response_shards import ResponseReader
from rule_path import explain
from run_shards import RunShards, find_gaps, find_run_shards
from tqdm import tqdm
from training_file import ShuffledRecords, encode_record, write_parquet, write_records

logger = logging.getLogger("merge")

DUMMY_DATA = Path(__file__).resolve().parent.parent / "dummy_data" / "vicuna_dummy_data.json"
BYTES_FOR_A_WORKER = 20_000_000  # less is judged before a second process has started


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    add("--assistant_name", default="Dromedary", help="default: %(default)s")
    add("--developer", default="the Self-Align team", help="default: %(default)s")
    add("--seed", type=int, default=42, help="of order and examples (default: %(default)s)")
    add("--allow_missing", action="store_true", help="go on where answers are missing or torn")
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
    return args


def main() -> None:
    args = parse_args()
    rules = FilterSettings.from_arguments(args, published_rules=args.published_rules)
    run = find_run_shards(args.data_file_pattern)
    if args.explain is not None:
        print(explain(args.explain, run, rules))
        return
    check_output_file(args.output_file, run, args.dummy_data_file)
    dummy_records = read_dummy_records(args.dummy_data_file, args.assistant_name, args.developer)
    settings = JudgingSettings(rules, args.assistant_name, args.seed)
    reader = ResponseReader(run.paths)
    with (
        MergedFiles(args.output_file, parquet=args.parquet) as files,
        ShuffledRecords(files.folder, args.seed) as records,
    ):
        statistics = judge_responses(run, reader, settings, records)
        gaps = check_complete(run, reader, args.allow_missing)
        for record in dummy_records:
            records.add(record["id"], encode_record(record))
        report = build_report(
            statistics,
            dummy=len(dummy_records),
            run=describe_run(run, reader, gaps),
            settings=describe_settings(args, rules),
        )
        write_files(files, records, report)
    log_summary(report, files)


def check_output_file(output_file: Path, run: RunShards, dummy_data_file: Path) -> None:
    """Raises ValueError if the merge would write over what it reads."""
    output = output_file.resolve()
    if output in [path.resolve() for path in run.paths]:
        raise ValueError(f"--output_file {output_file} is one of the shards; give another name")
    if output == dummy_data_file.resolve():
        raise ValueError(f"--output_file {output_file} is the dummy data; give another name")


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
    """What the shards lack, in words; ValueError for it unless that is allowed.

    Shards without any response are never allowed.
    """
    if not reader.answered:
        raise ValueError(f"the {len(run.paths)} shards of {run.name} hold no response")
    gaps = find_gaps(run, reader)
    if gaps and not allow_missing:
        raise ValueError(gaps)
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
        **asdict(replace(rules, blacklist={})),
        "blacklist": sorted(rules.blacklist),
    }


def write_files(files: MergedFiles, records: ShuffledRecords, report: dict[str, Any]) -> None:
    """Writes all files and puts them in their places together."""
    title = files.training.stem
    write_records(with_progress(records), files.beside(files.training), files.training.suffix)
    text = json.dumps(report, ensure_ascii=False, indent=1)
    files.beside(files.report).write_text(text + "\n", encoding="utf-8")
    files.beside(files.page).write_text(render_page(report, title), encoding="utf-8")
    card = dataset_card(report, title, with_configs=False)
    files.beside(files.card).write_text(card, encoding="utf-8")
    if files.dataset is not None:
        folder = files.beside(files.dataset)
        (folder / "data").mkdir(parents=True)
        card = dataset_card(report, title, with_configs=True)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_parquet(with_progress(records), folder / "data" / "train-00000-of-00001.parquet")
    files.publish()


def with_progress(records: ShuffledRecords) -> Iterator[bytes]:
    return iter(tqdm(records, desc="write", total=len(records), unit=" records", mininterval=1))


def log_summary(report: dict[str, Any], files: MergedFiles) -> None:
    """Says what was kept, why the rest went, and where everything lies."""
    responses, records = report["responses"], report["training_records"]
    judged = max(responses["judged"], 1)
    logger.info(
        "kept %d of %d responses (%.1f %%), %d of them finished",
        *(responses["kept"], responses["judged"], 100 * responses["kept"] / judged),
        responses["finished"],
    )
    if responses["kept"] == 0:
        logger.warning("no response was kept; do the rules' texts fit the principle prompt?")
    for rule in report["dropped"]:
        if rule["responses"]:
            logger.info(
                "  dropped %7d  %-15s  %s", *(rule["responses"], rule["rule"], rule["meaning"])
            )
    logger.info(
        "%d training records with the hand-written ones: %s", records["total"], files.training
    )
    logger.info("report: %s (%s)", files.page, files.report)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
