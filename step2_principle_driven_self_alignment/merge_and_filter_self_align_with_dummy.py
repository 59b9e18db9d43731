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
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dummy_conversations import name_assistant, read_dummy_records
from filter_report import build_report, render_card, render_page
from filter_settings import FilterSettings
from filter_statistics import FilterStatistics, source_of
from response_filters import ResponseFilter
from response_shards import ResponseReader, manifest_path
from response_text import Verdict
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

DUMMY_DATA = Path(__file__).resolve().parent.parent / "dummy_data" / "vicuna_dummy_data.json"
BATCH = 200  # responses that a process judges at a time
BYTES_FOR_A_WORKER = 20_000_000  # less is judged before a second process has started
# What a response record has and a training record does not, or has otherwise
RESPONSE_FIELDS = frozenset((*COLUMNS, "finish_reason", "prompt_tokens", "output_tokens"))


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
        files.publish()
    log_summary(report, files)


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


@dataclass(frozen=True)
class JudgingSettings:
    """All that decides what becomes of a response."""

    rules: FilterSettings
    assistant_name: str
    seed: int


@dataclass
class JudgedBatch:
    """The kept responses as (id, encoded training record), and the counts over all of them."""

    kept: list[tuple[str, bytes]] = field(default_factory=list)
    statistics: FilterStatistics = field(default_factory=FilterStatistics)


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


def judge_all(
    records: Iterable[dict[str, Any]], settings: JudgingSettings, workers: int
) -> Iterator[JudgedBatch]:
    """Judges all records, in their order; the result is the same for any number of workers."""
    iterator = iter(records)
    batches = iter(lambda: list(islice(iterator, BATCH)), [])
    if workers <= 1:
        yield from (judge_batch(settings, batch) for batch in batches)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        waiting: deque[Future[JudgedBatch]] = deque()
        try:
            for batch in batches:
                waiting.append(executor.submit(judge_batch, settings, batch))
                if len(waiting) > 4 * workers:  # bounds what lies in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


def judge_batch(settings: JudgingSettings, records: Iterable[dict[str, Any]]) -> JudgedBatch:
    """Judges response records that were checked on reading."""
    response_filter = ResponseFilter(settings.rules)
    batch = JudgedBatch()
    for record in records:
        verdict = response_filter.judge(record)
        if verdict.kept:
            verdict = replace(verdict, reply=named_reply(verdict, settings))
            batch.kept.append((record["id"], encode_record(training_record(record, verdict))))
        batch.statistics.count(record, verdict, settings.seed)
    return batch


def named_reply(verdict: Verdict, settings: JudgingSettings) -> str:
    """The reply with the assistant's name instead of the codename."""
    codename = settings.rules.dialogue.codename
    if settings.rules.published_rules:
        return verdict.reply.replace(codename, settings.assistant_name)
    prompt = f"{verdict.instruction}\n\n{verdict.input}"
    return name_assistant(verdict.reply, prompt, settings.assistant_name, codename)


def training_record(record: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """The training record of a kept response; fields that we don't know travel along."""
    return {
        "id": record["id"],
        "instruction": verdict.instruction,
        "input": verdict.input,
        "output": verdict.reply,
        "finished": verdict.finished,
        "source": source_of(record),
        **{name: value for name, value in record.items() if name not in RESPONSE_FIELDS},
    }


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
        write_parquet(with_progress(records), files.beside(parquet))
    for path, text in texts.items():
        files.beside(path).write_text(text, encoding="utf-8")


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
    sys.exit(run_script(main))
