"""Asks for more topics of each kind of question: the requests of one round.

Reads    the kinds of questions with their seeds, and the pool of topics that earlier rounds gave.
Writes   a JSON array of requests for step 2's generator (with its --prompt_file
         prompts/topic_guided/topic_prompt.txt). Ends with code 3 and writes nothing where no more
         are needed: every kind has its topics, or the last round gave hardly any new ones.

    python compose_topic_requests.py --round 1 --output_file topic_requests_1.json
    python compose_topic_requests.py --round 2 --pool topics_1.jsonl \
        --output_file topic_requests_2.json
"""

import argparse
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from command_line import InputError, ScriptParser, fraction, positive_integer, run_script
from request_files import request_record, write_requests
from topic_pool import TYPES_FILE, QuestionType, by_type, read_pool, read_types

EXIT_ENOUGH = 3
TOPICS_A_REQUEST = 10
KNOWN_TOPICS = (1, 5)  # how many a request shows, as in the method's first version
EXPECTED_YIELD = 0.5  # new topics among those that are asked for
LEAST_REQUESTS = 20


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Ask for more topics of each kind of question.")
    add = parser.add_argument
    add("--round", type=positive_integer, required=True, help="number of the round, from 1")
    add("--types_file", type=Path, default=TYPES_FILE, metavar="FILE", help="kinds and seeds")
    add("--pool", type=Path, metavar="FILE", help="topics of the rounds before (harvest_topics.py)")
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add(
        "--topics_per_type",
        type=positive_integer,
        default=6000,
        metavar="INTEGER",
        help="topics to have in the end of a kind of weight 1",
    )
    add(
        "--least_yield",
        type=fraction,
        default=0.05,
        metavar="FRACTION",
        help="share of new topics in a round below which no further round follows",
    )
    add("--seed", type=int, default=42, metavar="INTEGER", help="of the known topics shown")
    args = parser.parse_args()
    if args.round > 1 and args.pool is None:
        parser.error(f"--round {args.round} goes on from an earlier one; give its --pool")
    return args


def main() -> None:
    """Read the pool, see what is missing, ask for it."""
    args = parse_args()
    types = read_types(args.types_file)
    topics = by_type(types, read_pool(args.pool, types))
    missing = {
        kind.name: math.ceil(args.topics_per_type * kind.weight) - len(topics[kind.name])
        for kind in types
    }
    last_yield = yield_of(args.pool)
    if max(missing.values()) <= 0 or (last_yield is not None and last_yield < args.least_yield):
        say_enough(missing, last_yield)
        sys.exit(EXIT_ENOUGH)
    requests = [
        request
        for kind in types
        for request in compose(kind, topics[kind.name], missing[kind.name], args)
    ]
    write_requests(args.output_file, requests)
    print(f"{len(requests):,} requests of round {args.round} in {args.output_file}")


def compose(
    kind: QuestionType, topics: list[str], missing: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The requests for one kind; no more than it has topics, as few seeds give few new ones."""
    wanted = math.ceil(missing / (TOPICS_A_REQUEST * EXPECTED_YIELD))
    requests = []
    for draw in range(min(wanted, max(LEAST_REQUESTS, len(topics)))):
        rng = random.Random(f"{args.seed} {args.round} {draw} {kind.name}")
        known = rng.sample(sorted(topics), min(rng.choice(KNOWN_TOPICS), len(topics)))
        text = f"{kind.name}\nKnown: {'; '.join(known)}"
        requests.append(request_record(text, draw, type=kind.name, round=args.round))
    return requests


def yield_of(pool: Path | None) -> float | None:
    """Share of new topics among the proposals of the round that wrote the pool; None if unknown."""
    report = pool.with_suffix(".report.json") if pool else None
    if report is None or not report.is_file():
        return None
    try:
        return json.loads(report.read_text(encoding="utf-8"))["yield"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{report} is no report of harvest_topics.py ({error!r})") from None


def say_enough(missing: dict[str, int], last_yield: float | None) -> None:
    """Why no further round follows."""
    short = {name: number for name, number in missing.items() if number > 0}
    if short:
        print(
            f"no further round: only {last_yield:.1%} of the last round's were new; missing: "
            + ", ".join(f"{name} {number:,}" for name, number in short.items())
        )
    else:
        print("no further round: every kind has its topics")


if __name__ == "__main__":
    run_script(main)
