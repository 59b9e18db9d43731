"""Asks for one question or task for each topic: five pairs of kind and topic a request.

Reads    the kinds of questions with their example questions, and the pool of topics.
Writes   OUTPUT.json, a JSON array of requests for step 2's generator, and OUTPUT_prompt.txt with
         its OUTPUT_prompt.format.toml, the prompt file to generate with.

`--mode fixed` shows the same worked examples to all requests, so that step 2 computes them once;
`drawn` shows every request five examples of its own, as the method's first version did, which
costs several times the work. `--prefix_variants N` spreads the requests of `fixed` over N orders of
the examples: OUTPUT_1.json, OUTPUT_1_prompt.txt, and so on.

    python compose_topic_guided_requests.py --pool topics_9.jsonl \
        --output_file question_requests.json
"""

import argparse
import math
import random
from itertools import chain
from pathlib import Path
from typing import Any

from command_line import InputError, ScriptParser, positive_integer, run_script
from prompt_records import seeded_digest
from prompt_sources import find_sources, read_rows
from request_files import request_record, write_prompt_file, write_requests
from topic_pool import PROMPTS, TYPES_FILE, QuestionType, Topic, read_pool, read_types

PAIRS_A_REQUEST = 5
STATEMENT = PROMPTS / "topic_guided" / "question_statement.txt"
DIALOGUE = PROMPTS / "topic_guided" / "question_prompt.format.toml"
WANTED = "Wanted:"  # opens the user's part, as question_prompt.format.toml says


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Ask for one question or task for each topic.")
    add = parser.add_argument
    add("--pool", type=Path, required=True, metavar="FILE", help="topics (harvest_topics.py)")
    add("--types_file", type=Path, default=TYPES_FILE, metavar="FILE", help="kinds and examples")
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add(
        "--mode", choices=("fixed", "drawn"), default="fixed", help="examples shared, or drawn anew"
    )
    add(
        "--pairs", type=positive_integer, metavar="INTEGER", help="pairs to ask for, by weight; all"
    )
    add(
        "--prefix_variants",
        type=positive_integer,
        default=1,
        metavar="INTEGER",
        help="orders of the examples in mode fixed, each with files of its own",
    )
    add("--harvested", type=Path, metavar="FILE", help="leave out pairs with a prompt in this file")
    add("--seed", type=int, default=42, metavar="INTEGER", help="of pairs, orders and examples")
    args = parser.parse_args()
    if args.mode == "drawn" and args.prefix_variants > 1:
        parser.error("--prefix_variants orders the examples of --mode fixed; drawn draws its own")
    if args.output_file.suffix != ".json":
        parser.error(f"--output_file {args.output_file} must end with .json")
    return args


def main() -> None:
    """Read, choose the pairs, compose, write."""
    args = parse_args()
    types = read_types(args.types_file)
    topics = read_pool(args.pool, types)
    pairs = choose_pairs(types, topics, harvested_pairs(args.harvested), args)
    statement = STATEMENT.read_text(encoding="utf-8").rstrip()
    groups = [pairs[i : i + PAIRS_A_REQUEST] for i in range(0, len(pairs), PAIRS_A_REQUEST)]
    for variant in range(args.prefix_variants):
        output = args.output_file
        if args.prefix_variants > 1:
            output = output.with_name(f"{output.stem}_{variant + 1}.json")
        rng = random.Random(f"{args.seed} variant {variant}")
        examples = worked_examples(types, rng) if args.mode == "fixed" else []
        prompt = "\n\n".join([statement, *map(block, examples), WANTED])
        own = groups[variant :: args.prefix_variants]
        requests = [compose(group, types, args) for group in own]
        prompt_file = output.with_name(f"{output.stem}_prompt.txt")
        write_prompt_file(prompt_file, prompt + "\n", DIALOGUE)
        write_requests(output, requests)
        print(f"{len(requests):,} requests for {sum(map(len, own)):,} questions in {output}")
        print(f"generate with --prompt_file {prompt_file}")


def choose_pairs(
    types: list[QuestionType],
    topics: list[Topic],
    harvested: set[tuple[str, str]],
    args: argparse.Namespace,
) -> list[tuple[str, str]]:
    """(kind, topic) to ask for, the kinds mixed, in a seeded order that no file order changes.

    Raises:
        InputError: every pair has its prompt already.
    """
    left: dict[str, list[tuple[bytes, str]]] = {kind.name: [] for kind in types}
    for topic in topics:
        if (topic.type, topic.topic) not in harvested:
            place = seeded_digest(f"{topic.type}\0{topic.topic}".encode(), args.seed)
            left[topic.type].append((place, topic.topic))
    if not any(left.values()):
        raise InputError(f"every topic of {args.pool} has a prompt in {args.harvested} already")
    weights = sum(kind.weight for kind in types)
    chosen = []
    for kind in types:
        share = len(topics) if not args.pairs else math.ceil(args.pairs * kind.weight / weights)
        ordered = sorted(left[kind.name])[:share]
        chosen += [(place, (kind.name, topic)) for place, topic in ordered]
    return [pair for _, pair in sorted(chosen)][: args.pairs]


def harvested_pairs(path: Path | None) -> set[tuple[str, str]]:
    """The pairs that have a prompt in a file of harvest_prompts.py."""
    if path is None:
        return set()
    [source] = find_sources([str(path)], "--harvested", (".json", ".jsonl"))
    rows = (row for _, row in read_rows(source) if isinstance(row, dict))
    return {(row["type"], row["topic"]) for row in rows if row.get("type") and row.get("topic")}


def worked_examples(types: list[QuestionType], rng: random.Random) -> list[list[tuple[str, ...]]]:
    """One question of each kind, in blocks of five (kind, topic, question)."""
    examples = [(kind.name, *rng.choice(kind.questions)) for kind in types]
    rng.shuffle(examples)
    whole = len(examples) - len(examples) % PAIRS_A_REQUEST or len(examples)
    return [examples[i : i + PAIRS_A_REQUEST] for i in range(0, whole, PAIRS_A_REQUEST)]


def block(examples: list[tuple[str, ...]]) -> str:
    """Wanted pairs and their questions, as the model is to go on."""
    answers = [
        f"{number}. ({kind}; {topic}) {question}"
        for number, (kind, topic, question) in enumerate(examples, start=1)
    ]
    return f"{WANTED}\n{wanted([example[:2] for example in examples])}\n\nQuestions:\n" + "\n".join(
        answers
    )


def wanted(pairs: list[tuple[str, ...]]) -> str:
    """The numbered pairs."""
    return "\n".join(f"{n}. ({kind}; {topic})" for n, (kind, topic) in enumerate(pairs, start=1))


def compose(
    pairs: list[tuple[str, str]], types: list[QuestionType], args: argparse.Namespace
) -> dict[str, Any]:
    """One request; in mode drawn with examples of its own in front."""
    text = wanted(pairs)
    if args.mode == "drawn":
        rng = random.Random(f"{args.seed} {text}")
        every = list(chain.from_iterable([(k.name, *q) for q in k.questions] for k in types))
        examples = rng.sample(every, min(PAIRS_A_REQUEST, len(every)))
        text = f"{block(examples).removeprefix(WANTED).strip()}\n\n{WANTED}\n{text}"
    return request_record(text, 0, pairs=[{"type": kind, "topic": topic} for kind, topic in pairs])


if __name__ == "__main__":
    run_script(main)
