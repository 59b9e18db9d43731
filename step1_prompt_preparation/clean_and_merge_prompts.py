"""Cleans prompts, drops duplicates, leaks and bad lengths, and merges them into one shuffled file.

Reads    the prompt files of the two other scripts, and where wished Dolly-15k and OASST1.
Writes   a JSON array of prompt records, and beside it OUTPUT.report.json with the counts.

    python clean_and_merge_prompts.py --sharegpt_prompt_path sharegpt_prompts.json \
        --openorca_prompt_path openorca_prompts.json --output_file merged_prompts.json
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from command_line import (
    InputError,
    ScriptParser,
    add_rejects_argument,
    add_seed_argument,
    add_tokenizer_argument,
    comma_list,
    fraction,
    positive_integer,
    progress_bar,
    refuse_overwriting,
    run_script,
)
from decontamination import BenchmarkQuestions
from non_prompts import non_prompt_reason
from normalized_text import normalized_key
from preparation_report import PreparationReport
from prompt_collections import CandidatePrompt, read_dolly, read_oasst, read_prompt_records
from prompt_output import PromptOutput, output_files
from prompt_records import full_prompt, is_valid_unicode, prompt_record, seeded_order
from prompt_sources import PromptSource, find_sources
from row_files import RECORD_ENDINGS
from text_cleaning import clean_prompt
from token_lengths import TokenCounter

INPUT_FLAGS = {
    "sharegpt_prompt_path": "prompts of aggregate_sharegpt_prompts.py",
    "openorca_prompt_path": "prompts of subsample_openorca_prompts.py",
    "synthetic_prompt_path": "prompts of harvest_prompts.py",
    "dolly_data": "Dolly-15k rows, such as databricks/databricks-dolly-15k",
    "oasst_data": "OASST1 messages, such as OpenAssistant/oasst1",
}
PROMPTS_PER_BATCH = 4096
MOST_CHARACTERS = 100_000  # more is not cleaned, but dropped at once


class MeasuredPrompt(NamedTuple):
    """A record with its text, and how many tokens that is with step 2's cue."""

    record: dict[str, Any]
    text: str
    tokens: int


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Clean prompts and merge them into one shuffled file.")
    add = parser.add_argument
    for flag, what in INPUT_FLAGS.items():
        names = "FILE|FOLDER|HUB_NAME,..."
        add(f"--{flag}", type=comma_list, default=[], metavar=names, help=what)
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add(
        "--languages",
        type=comma_list,
        metavar="CODE,...",
        help="languages of OASST1 to keep, such as en,es (all)",
    )
    limits = (
        ("min", 2, "shortest prompt, in tokens"),
        ("max", 256, "longest prompt, in tokens, with the cue that step 2 puts behind it"),
    )
    for which, default, what in limits:
        flag = f"--{which}_prompt_len"
        add(flag, type=positive_integer, default=default, metavar="INTEGER", help=what)
    add(
        "--max_per_source",
        type=positive_integer,
        metavar="INTEGER",
        help="most prompts of one source (all); which ones is decided by --seed",
    )
    add(
        "--near_duplicate_threshold",
        type=fraction,
        default=1.0,
        metavar="FRACTION",
        help="prompts of the same content words count as one; below 1 also those that share this "
        "much of them (Jaccard of 5-shingles), although they may ask for something else",
    )
    add(
        "--decontaminate_against",
        type=comma_list,
        default=[],
        metavar="FILE|HUB_NAME,...",
        help="benchmark questions (.json, .jsonl, .csv, .parquet): prompts that give one away go",
    )
    add_tokenizer_argument(parser)
    add_seed_argument(parser, "the shuffling")
    add_rejects_argument(parser)
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
    """Parse, check, clean, measure, drop, shuffle, write."""
    args = parse_args()
    inputs = find_inputs(args)
    benchmarks = find_sources(args.decontaminate_against, "--decontaminate_against")
    counter = TokenCounter(args.tokenizer_name)
    questions = BenchmarkQuestions.from_sources(benchmarks)
    report = PreparationReport("tokens", settings(args, counter, inputs))
    with PromptOutput(args.output_file, report, args.rejects_file) as output:
        records = clean(read_candidates(inputs, report), output)
        prompts = of_fitting_length(records, counter, args, output)
        prompts = in_fixed_order(prompts)
        prompts = without_duplicates(prompts, output)
        prompts = without_benchmark_questions(prompts, questions, output)
        prompts = without_near_duplicates(prompts, args.near_duplicate_threshold, output)
        prompts = at_most_per_source(prompts, args.max_per_source, args.seed, output)
        prompts = seeded_order(prompts, args.seed, lambda prompt: prompt.record["id"])
        output.finish([prompt.record for prompt in prompts], (prompt.tokens for prompt in prompts))


PromptReader = Callable[[PromptSource], Iterator[CandidatePrompt]]


def find_inputs(args: argparse.Namespace) -> list[tuple[PromptSource, PromptReader]]:
    """Every file or data set to merge, and how its rows become prompts."""
    readers: dict[str, PromptReader] = {
        "sharegpt_prompt_path": partial(read_prompt_records, default_source="sharegpt"),
        "openorca_prompt_path": partial(read_prompt_records, default_source="openorca"),
        "synthetic_prompt_path": partial(read_prompt_records, default_source="synthetic"),
        "dolly_data": read_dolly,
        "oasst_data": partial(read_oasst, languages=args.languages),
    }
    return [
        (source, reader)
        for flag, reader in readers.items()
        for source in find_sources(getattr(args, flag), f"--{flag}", RECORD_ENDINGS)
    ]


def settings(
    args: argparse.Namespace,
    counter: TokenCounter,
    inputs: list[tuple[PromptSource, PromptReader]],
) -> dict[str, object]:
    """What the report says about how the run was set up."""
    names = (
        *("seed", "min_prompt_len", "max_prompt_len", "near_duplicate_threshold", "languages"),
        "max_per_source",
    )
    return {
        **{name: getattr(args, name) for name in names},
        "tokenizer": counter.description,
        "files": [source.name for source, _ in inputs],
        "decontaminate_against": sorted(args.decontaminate_against),
    }


def read_candidates(
    inputs: list[tuple[PromptSource, PromptReader]], report: PreparationReport
) -> Iterator[CandidatePrompt]:
    """The rows of all inputs, counted.

    Raises:
        InputError: an input has no rows.
    """
    for source, read in inputs:
        before = report.read.total()
        for candidate in progress_bar(source.name, read(source)):
            report.read[candidate.source] += 1
            yield candidate
        if report.read.total() == before:
            raise InputError(f"{source.name}: it is empty; {source.flag} needs rows")


def clean(candidates: Iterable[CandidatePrompt], output: PromptOutput) -> Iterator[dict[str, Any]]:
    """The candidates that are wanted and ask for something, without the residue of pages."""
    report = output.report
    for candidate in candidates:
        reason = candidate.reason or text_reason(candidate)
        if reason:
            output.drop(candidate.source, reason, candidate.instruction)
            continue
        rules: Counter[str] = Counter()
        instruction = clean_prompt(candidate.instruction, rules)
        input_text = clean_prompt(candidate.input, rules)
        if rules:
            report.cleaned.update(rules)
            report.show_cleaned(rules, candidate.instruction, instruction)
        reason = non_prompt_reason(instruction) if instruction and not input_text else None
        if not instruction or reason:
            output.drop(candidate.source, reason or "empty", candidate.instruction)
        else:
            yield prompt_record(instruction, candidate.source, input_text, candidate.extra)


def text_reason(candidate: CandidatePrompt) -> str | None:
    """Why a text cannot be a prompt, whatever it says."""
    texts = (candidate.instruction, candidate.input)
    if not all(isinstance(text, str) for text in texts):
        return "no_text"
    if not candidate.instruction.strip():
        return "empty"
    if sum(map(len, texts)) > MOST_CHARACTERS:
        return "too_long"
    return None if all(map(is_valid_unicode, texts)) else "invalid_unicode"


def of_fitting_length(
    records: Iterable[dict[str, Any]],
    counter: TokenCounter,
    args: argparse.Namespace,
    output: PromptOutput,
) -> Iterator[MeasuredPrompt]:
    """The records whose token counts are within the limits, measured in batches."""
    records = iter(records)
    while batch := list(islice(records, PROMPTS_PER_BATCH)):
        texts = list(map(full_prompt, batch))
        lengths = counter.count_in_dialogue(texts, args.max_prompt_len)
        for prompt in map(MeasuredPrompt, batch, texts, lengths):
            if prompt.tokens - counter.cue < args.min_prompt_len:
                drop(prompt, "too_short", output)
            elif prompt.tokens > args.max_prompt_len:
                drop(prompt, "too_long", output)
            else:
                yield prompt


def in_fixed_order(prompts: Iterable[MeasuredPrompt]) -> list[MeasuredPrompt]:
    """By id, then source: which of two equal prompts stays does not depend on the inputs' order."""
    return sorted(prompts, key=lambda p: (p.record["id"], p.record["source"], repr(p.record)))


def without_duplicates(prompts: list[MeasuredPrompt], output: PromptOutput) -> list[MeasuredPrompt]:
    """The first of the prompts that differ in case, whitespace or punctuation alone."""
    first: dict[bytes, MeasuredPrompt] = {}
    for prompt in prompts:
        kept = first.setdefault(normalized_key(prompt.text), prompt)
        if kept is not prompt:
            drop(prompt, "duplicate", output, of=kept.record["id"])
    return list(first.values())


def without_benchmark_questions(
    prompts: list[MeasuredPrompt], questions: BenchmarkQuestions, output: PromptOutput
) -> list[MeasuredPrompt]:
    """The prompts that give no benchmark's question away."""
    if not questions:
        return prompts
    kept = []
    for prompt in progress_bar("decontamination", prompts, unit="prompts"):
        leak = questions.find(prompt.text)
        if leak:
            drop(prompt, "benchmark_question", output, benchmark=leak[0], shared=leak[1])
        else:
            kept.append(prompt)
    return kept


def without_near_duplicates(
    prompts: list[MeasuredPrompt], threshold: float, output: PromptOutput
) -> list[MeasuredPrompt]:
    """The first of each cluster of prompts that ask for the same in the same words of weight."""
    from deduplication import find_near_duplicates  # slow to import

    stands_for = find_near_duplicates([prompt.text for prompt in prompts], threshold)
    clusters: dict[str, list[str]] = {}
    for dropped, kept in stands_for.items():
        drop(prompts[dropped], "near_duplicate", output, of=prompts[kept].record["id"])
        clusters.setdefault(prompts[kept].text, []).append(prompts[dropped].text)
    output.report.show_clusters(clusters)
    return [prompt for number, prompt in enumerate(prompts) if number not in stands_for]


def at_most_per_source(
    prompts: list[MeasuredPrompt], most: int | None, seed: int, output: PromptOutput
) -> list[MeasuredPrompt]:
    """A seeded uniform sample of each source that has more prompts than wished."""
    if most is None:
        return prompts
    kept, taken = [], Counter()
    for prompt in seeded_order(prompts, seed, lambda prompt: prompt.record["id"]):
        source = prompt.record["source"]
        taken[source] += 1
        if taken[source] <= most:
            kept.append(prompt)
        else:
            drop(prompt, "not_drawn", output)
    return kept


def drop(prompt: MeasuredPrompt, reason: str, output: PromptOutput, **details: object) -> None:
    """Counts a prompt that goes, and keeps it among the rejects."""
    record = prompt.record
    output.drop(record["source"], reason, prompt.text, id=record["id"], **details)


if __name__ == "__main__":
    run_script(main)
