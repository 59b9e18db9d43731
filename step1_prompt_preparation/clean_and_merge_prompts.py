"""Cleans prompts, drops duplicates, leaks and bad lengths, and merges them into one shuffled file.

Reads    the prompt files of the two other scripts, and where wished Dolly-15k and OASST1.
Writes   a JSON array of prompt records, and beside it OUTPUT.report.json with the counts.

    python clean_and_merge_prompts.py --sharegpt_prompt_path sharegpt_prompts.json \
        --openorca_prompt_path openorca_prompts.json --output_file merged_prompts.json
"""

import argparse
from functools import partial
from pathlib import Path

from decontamination import BenchmarkQuestions
from input_errors import InputError, run_script
from preparation_report import PreparationReport
from prompt_arguments import (
    add_run_arguments,
    add_tokenizer_argument,
    comma_list,
    fraction,
    positive_integer,
    refuse_overwriting,
    story_parser,
)
from prompt_collections import PromptReader, read_dolly, read_oasst, read_prompt_records
from prompt_output import PromptOutput, output_files
from prompt_pool import LengthLimits, PromptPool
from prompt_records import seeded_order
from prompt_sources import PromptSource, find_sources
from reading_progress import progress_bar
from token_lengths import TokenCounter

RECORD_ENDINGS = (".json", ".jsonl", ".parquet")
INPUT_FLAGS = {
    "sharegpt_prompt_path": "prompts of aggregate_sharegpt_prompts.py",
    "openorca_prompt_path": "prompts of subsample_openorca_prompts.py",
    "dolly_data": "Dolly-15k rows, such as databricks/databricks-dolly-15k",
    "oasst_data": "OASST1 messages, such as OpenAssistant/oasst1",
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = story_parser("Clean prompts and merge them into one shuffled file.")
    for flag, what in INPUT_FLAGS.items():
        names = "FILE|FOLDER|HUB_NAME,..."
        parser.add_argument(f"--{flag}", type=comma_list, default=[], metavar=names, help=what)
    parser.add_argument(
        "--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write"
    )
    parser.add_argument(
        "--languages",
        type=comma_list,
        metavar="CODE,...",
        help="languages of OASST1 to keep, such as en,es (all)",
    )
    limits = {"min_prompt_len": (2, "shortest"), "max_prompt_len": (256, "longest")}
    for flag, (default, which) in limits.items():
        parser.add_argument(
            f"--{flag}",
            type=positive_integer,
            default=default,
            metavar="INTEGER",
            help=f"{which} prompt, in tokens",
        )
    parser.add_argument(
        "--near_duplicate_threshold",
        type=fraction,
        default=0.8,
        metavar="FRACTION",
        help="share of word 5-shingles (Jaccard) from which two prompts count as one; 1 keeps all "
        "but those with the same shingles",
    )
    parser.add_argument(
        "--decontaminate_against",
        type=comma_list,
        default=[],
        metavar="FILE|HUB_NAME,...",
        help="benchmark questions (.json, .jsonl, .csv, .parquet): prompts that give one away go",
    )
    add_tokenizer_argument(parser)
    add_run_arguments(parser)
    args = parser.parse_args()
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with a usage error where the flags do not fit together."""
    inputs = [name for flag in INPUT_FLAGS for name in getattr(args, flag)]
    if not inputs:
        parser.error(f"nothing to merge; give one of {', '.join('--' + f for f in INPUT_FLAGS)}")
    if args.min_prompt_len > args.max_prompt_len:
        parser.error(
            f"--min_prompt_len {args.min_prompt_len} is above "
            f"--max_prompt_len {args.max_prompt_len}"
        )
    if args.languages and not args.oasst_data:
        parser.error("--languages chooses among OASST1's languages; give --oasst_data too")
    outputs = output_files("--output_file", args.output_file, args.rejects_file)
    refuse_overwriting(parser, outputs, inputs + args.decontaminate_against, RECORD_ENDINGS)


def main() -> None:
    """Parse, check, clean, drop, merge, write."""
    args = parse_args()
    inputs = find_inputs(args)
    benchmarks = find_sources(args.decontaminate_against, "--decontaminate_against")
    counter = TokenCounter(args.tokenizer_name)
    questions = BenchmarkQuestions.from_sources(benchmarks)
    report = PreparationReport("tokens", settings(args, [source for source, _ in inputs]))
    with PromptOutput(args.output_file, report, args.rejects_file) as output:
        limits = LengthLimits(args.min_prompt_len, args.max_prompt_len)
        pool = PromptPool(counter, limits, output)
        for source, read in inputs:
            before = report.read.total()
            pool.add(progress_bar(source.name, read(source)))
            if report.read.total() == before:
                raise InputError(f"{source.name}: it is empty; {source.flag} needs rows")
        pool.drop_duplicates()
        pool.drop_leaks(questions)
        pool.drop_near_duplicates(args.near_duplicate_threshold)
        records = seeded_order(pool.records, args.seed)
        output.finish(records, (pool.lengths[record["id"]] for record in records))


def find_inputs(args: argparse.Namespace) -> list[tuple[PromptSource, PromptReader]]:
    """Every file or data set to merge, and how its rows become prompts."""
    readers: dict[str, PromptReader] = {
        "sharegpt_prompt_path": partial(read_prompt_records, default_source="sharegpt"),
        "openorca_prompt_path": partial(read_prompt_records, default_source="openorca"),
        "dolly_data": read_dolly,
        "oasst_data": partial(read_oasst, languages=args.languages),
    }
    return [
        (source, reader)
        for flag, reader in readers.items()
        for source in find_sources(getattr(args, flag), f"--{flag}", RECORD_ENDINGS)
    ]


def settings(args: argparse.Namespace, sources: list[PromptSource]) -> dict[str, object]:
    """What the report says about how the run was set up."""
    names = ("seed", "min_prompt_len", "max_prompt_len", "near_duplicate_threshold", "languages")
    chosen: dict[str, object] = {name: getattr(args, name) for name in names}
    return chosen | {
        "files": [source.name for source in sources],
        "decontaminate_against": sorted(args.decontaminate_against),
    }


if __name__ == "__main__":
    run_script(main)
