"""Asks for more tasks behind five drawn seed tasks: the requests of the Self-Instruct branch.

Reads    the seed tasks, one JSON object with `instruction` a line.
Writes   a JSON array of requests for step 2's generator (with its --prompt_file
         prompts/self_instruct/self_instruct_prompt.txt).

    python compose_self_instruct_requests.py --requests 1000 \
        --output_file self_instruct_requests.json
"""

import argparse
import random
from pathlib import Path
from typing import Any

from command_line import InputError, ScriptParser, positive_integer, run_script
from prompt_sources import find_sources, read_rows
from request_files import request_record, write_requests
from topic_pool import PROMPTS

SEED_TASKS = PROMPTS / "self_instruct" / "seed_tasks.jsonl"
SHOWN_TASKS = 5


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Ask for more tasks behind drawn seed tasks.")
    add = parser.add_argument
    add("--seed_tasks", type=Path, default=SEED_TASKS, metavar="FILE", help="tasks of a person")
    add("--requests", type=positive_integer, required=True, help="how many to write")
    add("--start", type=int, default=0, metavar="INTEGER", help="number of the first draw")
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add("--seed", type=int, default=42, metavar="INTEGER", help="of the tasks shown")
    args = parser.parse_args()
    if args.start < 0:
        parser.error(f"--start is {args.start}; give 0, or the number of requests written before")
    return args


def main() -> None:
    """Read the seeds, draw, write."""
    args = parse_args()
    tasks = read_seed_tasks(args.seed_tasks)
    draws = range(args.start, args.start + args.requests)
    requests = [compose(tasks, draw, args.seed) for draw in draws]
    write_requests(args.output_file, requests)
    print(f"{len(requests):,} requests in {args.output_file}")


def read_seed_tasks(path: Path) -> list[str]:
    """The seed tasks, each on a line of its own.

    Raises:
        InputError: a row has no `instruction` on one line, or there are fewer than a request shows.
    """
    [source] = find_sources([str(path)], "--seed_tasks", (".jsonl", ".json"))
    tasks = []
    for number, row in read_rows(source):
        text = row.get("instruction") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip() or "\n" in text.strip():
            raise InputError(f"{path}: row {number} has no 'instruction' on a single line")
        tasks.append(text.strip())
    if len(tasks) < SHOWN_TASKS:
        raise InputError(f"{path} holds {len(tasks)} seed tasks; give {SHOWN_TASKS} or more")
    return tasks


def compose(tasks: list[str], draw: int, seed: int) -> dict[str, Any]:
    """One request with drawn tasks."""
    shown = random.Random(f"{seed} {draw}").sample(tasks, SHOWN_TASKS)
    text = "\n".join(f"{number}. {task}" for number, task in enumerate(shown, start=1))
    return request_record(text, draw, first_number=SHOWN_TASKS + 1)


if __name__ == "__main__":
    run_script(main)
