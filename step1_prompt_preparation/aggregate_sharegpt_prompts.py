"""Collects the opening prompts of ShareGPT conversations: where a human opened and was answered.

Reads    conversations as .json, .jsonl or .parquet files, folders of them, or Hub data sets.
Writes   a JSON array of prompt records, sorted by id, and beside it OUTPUT.report.json.

    python aggregate_sharegpt_prompts.py \
        --data_files=zetavg/ShareGPT-Processed,sg_90k_part1.json,sg_90k_part2.json \
        --output_path sharegpt_prompts.json
"""

import argparse
import logging
from pathlib import Path

from command_line import (
    InputError,
    ScriptParser,
    add_rejects_argument,
    comma_list,
    progress_bar,
    refuse_overwriting,
    run_script,
)
from preparation_report import PreparationReport
from prompt_output import PromptOutput, output_files
from prompt_records import prompt_record
from prompt_sources import PromptSource, find_sources, read_rows
from row_files import RECORD_ENDINGS
from sharegpt_conversations import COLUMNS, TURN_FIELDS, has_turn_field, opening_prompt

SOURCE = "sharegpt"
logger = logging.getLogger(__name__)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Collect the opening prompts of ShareGPT conversations.")
    parser.add_argument(
        "--data_files",
        type=comma_list,
        required=True,
        metavar="FILE|FOLDER|HUB_NAME,...",
        help="conversations: .json, .jsonl or .parquet files, folders of them, Hub data sets",
    )
    parser.add_argument(
        "--output_path", type=Path, required=True, metavar="FILE", help="JSON file to write"
    )
    add_rejects_argument(parser)
    args = parser.parse_args()
    outputs = output_files("--output_path", args.output_path, args.rejects_file)
    refuse_overwriting(parser, outputs, args.data_files, RECORD_ENDINGS)
    return args


def main() -> None:
    """Parse, check, collect, write."""
    args = parse_args()
    sources = find_sources(args.data_files, "--data_files", RECORD_ENDINGS)
    report = PreparationReport("characters", {"files": [source.name for source in sources]})
    with PromptOutput(args.output_path, report, args.rejects_file) as output:
        prompts: dict[str, dict] = {}  # id -> record
        for source in sources:
            collect(source, prompts, output)
        warn_of_lost_pieces(report)
        records = [prompts[prompt_id] for prompt_id in sorted(prompts)]
        output.finish(records, (len(record["instruction"]) for record in records))


def collect(source: PromptSource, prompts: dict[str, dict], output: PromptOutput) -> None:
    """Adds the opening prompts of one file or data set.

    Raises:
        InputError: there are no conversations in it.
    """
    rows, conversations = 0, 0
    for number, row in progress_bar(source.name, read_rows(source, COLUMNS)):
        rows += 1
        conversations += has_turn_field(row)
        output.report.read[SOURCE] += 1
        opening = opening_prompt(row)
        text = opening.text.strip() if isinstance(opening.text, str) else opening.text
        record = None if opening.reason else prompt_record(text, SOURCE)
        if record is None or record["id"] in prompts:
            reason = opening.reason or "duplicate"
            output.drop(SOURCE, reason, text, file=source.name, row=number)
        else:
            prompts[record["id"]] = record
    if not conversations:
        found = f"none of its {rows} rows has" if rows else "it is empty: no row with"
        raise InputError(f"{source.name}: {found} a field {' or '.join(map(repr, TURN_FIELDS))}")


def warn_of_lost_pieces(report: PreparationReport) -> None:
    """Speaks up where ids that merely end in a number may have been taken for pieces."""
    lost, read = report.dropped[SOURCE, "later_piece"], report.read[SOURCE]
    if 2 * lost > read:
        logger.warning(
            "warning: %s of %s conversations have ids ending in _1, _2, … and were left out as "
            "later pieces of one; where such ids number whole conversations, rename them",
            f"{lost:,}",
            f"{read:,}",
        )


if __name__ == "__main__":
    run_script(main)
