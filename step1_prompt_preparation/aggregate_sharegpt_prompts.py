"""Collects the opening prompts of ShareGPT conversations: where a human opened and was answered.

Reads    conversations as .json, .jsonl or .parquet files, folders of them, or Hub data sets.
Writes   a JSON array of prompt records, sorted by id, and beside it OUTPUT.report.json.

    python aggregate_sharegpt_prompts.py \
        --data_files=zetavg/ShareGPT-Processed,sg_90k_part1.json,sg_90k_part2.json \
        --output_path sharegpt_prompts.json
"""

import argparse
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from command_line import (
    InputError,
    ScriptParser,
    add_rejects_argument,
    comma_list,
    progress_bar,
    refuse_overwriting,
    run_script,
)
from conversation_pieces import ConversationPieces
from preparation_report import PreparationReport
from prompt_output import PromptOutput, output_files
from prompt_records import prompt_record
from prompt_sources import PromptSource, find_sources, read_rows
from row_files import RECORD_ENDINGS
from sharegpt_conversations import COLUMNS, TURN_FIELDS, Opening, has_turn_field, opening_prompt

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
    """Parse, check, read, leave out later pieces, write."""
    args = parse_args()
    sources = find_sources(args.data_files, "--data_files", RECORD_ENDINGS)
    report = PreparationReport("characters", {"files": [source.name for source in sources]})
    with PromptOutput(args.output_path, report, args.rejects_file) as output:
        rows, pieces = read_openings(sources, report)
        later_pieces = pieces.later_pieces()
        warn_of_pieces(rows, later_pieces)
        records = opening_records(rows, later_pieces, output)
        output.finish(records, (len(record["instruction"]) for record in records))


class Row(NamedTuple):
    """Where a conversation lies, and what opens it."""

    file: str
    number: int
    opening: Opening


def read_openings(
    sources: list[PromptSource], report: PreparationReport
) -> tuple[list[Row], ConversationPieces]:
    """The openings of all conversations, and what their ids say about pieces of one.

    Raises:
        InputError: there are no conversations in a file or data set.
    """
    rows: list[Row] = []
    pieces = ConversationPieces()
    for source in sources:
        conversations, first = 0, len(rows)
        for number, row in progress_bar(source.name, read_rows(source, COLUMNS)):
            conversations += has_turn_field(row)
            opening = opening_prompt(row)
            pieces.add(opening.name, opening.turns, opening.human_first)
            rows.append(Row(source.name, number, opening))
        report.read[SOURCE] += len(rows) - first
        if not conversations:
            found = (
                f"none of its {len(rows) - first} rows has"
                if len(rows) > first
                else "it is empty: no row with"
            )
            raise InputError(
                f"{source.name}: {found} a field {' or '.join(map(repr, TURN_FIELDS))}"
            )
    return rows, pieces


def warn_of_pieces(rows: list[Row], later_pieces: set[str]) -> None:
    """Names the files of which half and more is left out as later pieces."""
    read = Counter(row.file for row in rows)
    lost = Counter(row.file for row in rows if row.opening.name in later_pieces)
    for file, number in lost.items():
        if 2 * number >= read[file]:
            logger.warning(
                "warning: %s: %s of %s conversations have ids such as abc_8 and are left out as "
                "later pieces of one; where such ids number whole conversations, rename them",
                *(file, f"{number:,}", f"{read[file]:,}"),
            )


def opening_records(
    rows: list[Row], later_pieces: set[str], output: PromptOutput
) -> list[dict[str, Any]]:
    """The prompts as records, each once, sorted by id."""
    records: dict[str, dict[str, Any]] = {}
    for file, number, opening in rows:
        reason = "later_piece" if opening.name in later_pieces else opening.reason
        text = opening.text.strip() if isinstance(opening.text, str) else opening.text
        record = None if reason else prompt_record(text, SOURCE)
        if record is None or record["id"] in records:
            output.drop(SOURCE, reason or "duplicate", text, file=file, row=number)
        else:
            records[record["id"]] = record
    return [records[prompt_id] for prompt_id in sorted(records)]


if __name__ == "__main__":
    run_script(main)
