"""Makes the requests for Verbose Cloning: every prompt is to be answered once more, at length.

Reads:  --input_file, the merged training records (or prompt records), .json, .jsonl or .parquet.
Writes: --output_file, requests for generate_self_align_response.py with the verbose prompt. Each
        is the record's prompt with `brief_characters`, the length of the reply that it has.

Hand-written conversations are left out. `--only_below N` asks only for replies that are shorter.

    python compose_verbose_requests.py --input_file merged.json --output_file requests.json
    python generate_self_align_response.py --model_dir ENGRAVED_MODEL --input_file requests.json \\
        --output_file verbose.jsonl --prompt_file ../prompts/verbose_cloning_prompt.txt \\
        --temperature 0.3 --top_p 0.7
    python merge_and_filter_verbose_clone_output.py --merged_file merged.json \\
        --data_file_pattern "verbose_*shards_*.jsonl" --output_file verbose_merged.json
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dummy_conversations import SOURCE
from filter_settings import number
from prompt_file import prompt_id_of, read_rows
from question_files import write_rows
from unfinished_text import weighted_length
from user_error import CommandLine, UserError, run_script

logger = logging.getLogger("compose")

# What a training record has of its reply, and a request has not
REPLY_FIELDS = frozenset(("example_id", "output", "finished", "thoughts", "principles"))


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--input_file", type=Path, required=True, help="training records or prompt records")
    add("--output_file", type=Path, required=True, help="the requests to write: NAME.json")
    add(
        "--only_below",
        type=number(int, 1),
        metavar="CHARACTERS",
        help="leave out prompts whose reply is at least this long; a CJK character counts as three",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.output_file.resolve() == args.input_file.resolve():
        raise UserError(f"--output_file {args.output_file} is the input; give another name")
    requests = list(compose(args.input_file, args.only_below))
    if not requests:
        raise UserError(
            f"{args.input_file} has no prompt to ask again; raise --only_below or leave it out"
        )
    write_rows(args.output_file, requests)
    logger.info("%d requests: %s", len(requests), args.output_file)


def compose(path: Path, only_below: int | None) -> Iterator[dict[str, Any]]:
    """The requests for a file's records, in their order."""
    for row_number, record in read_rows(path):
        if not isinstance(record, dict) or not isinstance(record.get("instruction"), str):
            raise UserError(f"{path}, row {row_number}: no text as `instruction`")
        reply = record.get("output") or ""
        too_long = only_below is not None and weighted_length(reply) >= only_below
        if record.get("source") == SOURCE or too_long:
            continue
        input_text = record.get("input") or ""
        kept = {name: value for name, value in record.items() if name not in REPLY_FIELDS}
        yield {
            "id": str(record.get("id") or prompt_id_of(record["instruction"], input_text)),
            **kept,
            "input": input_text,
            "output": "",
            "brief_characters": len(reply),
        }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_script(main))
