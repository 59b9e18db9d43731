"""Takes the topics of one round out of the responses, and adds the new ones to the pool.

Reads    the requests, the responses of step 2's generator, the seeds, the pool of earlier rounds.
Writes   the pool, one JSON object a line: `type`, `topic`, `round`, `parent_id` (the request); and
         beside it OUTPUT.report.json: proposals, new ones and drops by reason, with examples.

    python harvest_topics.py --requests topic_requests_1.json \
        --responses "topic_responses_1_*shards_*.jsonl" --output_file topics_1.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from command_line import InputError, ScriptParser, comma_list, refuse_overwriting, run_script
from harvest_report import HarvestReport, write_beside
from harvest_rules import TOPIC_RULES, broken_rule, numbered_items
from prompt_records import seeded_digest
from request_files import AnsweredRequest, read_answers, read_requests
from topic_pool import TYPES_FILE, Topic, read_pool, read_types

MOST_TOPICS = 10  # that a request asks for


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Take the topics of one round out of the responses.")
    add = parser.add_argument
    add("--requests", type=Path, required=True, metavar="FILE", help="of compose_topic_requests.py")
    add(
        "--responses",
        type=comma_list,
        required=True,
        metavar="PATTERN,...",
        help="shards, in quotes",
    )
    add("--types_file", type=Path, default=TYPES_FILE, metavar="FILE", help="kinds and seeds")
    add("--pool", type=Path, metavar="FILE", help="topics of the rounds before")
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSONL file to write")
    add("--allow_missing", action="store_true", help="go on where requests have no response")
    add("--seed", type=int, default=42, metavar="INTEGER", help="of the order of equal proposals")
    args = parser.parse_args()
    inputs = [str(args.requests), str(args.types_file), *([str(args.pool)] if args.pool else [])]
    refuse_overwriting(parser, {"--output_file": args.output_file}, inputs, (".jsonl",))
    return args


def main() -> None:
    """Read, take apart, drop, add, write."""
    args = parse_args()
    types = read_types(args.types_file)
    pool = {topic.key: topic for topic in read_pool(args.pool, types)}
    before = len(pool)
    answers = read_answers(read_requests([args.requests]), args.responses, args.allow_missing)
    report = HarvestReport([kind.name for kind in types])
    proposals = [proposal for answer in answers for proposal in propose(answer, report)]
    # Of equal proposals the first stays: first by a seeded hash, not by the order of shards.
    for topic in sorted(proposals, key=lambda t: seeded_digest(repr(t).encode(), args.seed)):
        if pool.setdefault(topic.key, topic) is topic:
            report.keep(topic.type)
        else:
            report.drop(topic.type, "repeated", topic.topic)
    if len(pool) == before:
        print(report.table())
        raise InputError(f"no new topic (see the table above); {args.output_file} is not written")
    write_pool(args.output_file, list(pool.values()))
    report.write(args.output_file, answers=len(answers), pool=len(pool))


def propose(answer: AnsweredRequest, report: HarvestReport) -> Iterator[Topic]:
    """The topics of a response that keep the rules; the others are counted."""
    kind, parent = answer.request["type"], answer.request["id"]
    for number, text, reason in numbered_items(answer.text, 1, answer.finished):
        reason = reason or ("not_asked_for" if number > MOST_TOPICS else None)
        reason = reason or broken_rule(TOPIC_RULES, text)
        report.propose(kind)
        if reason:
            report.drop(kind, reason, text)
        else:
            yield Topic(kind, text, answer.request["round"], parent)


def write_pool(path: Path, topics: list[Topic]) -> None:
    """The topics that the model gave, without the seeds, in an order of their own."""
    given = sorted(
        (topic for topic in topics if topic.round), key=lambda t: (t.type, t.round, t.topic)
    )
    lines = [json.dumps(asdict(topic), ensure_ascii=False) + "\n" for topic in given]
    write_beside(path, "".join(lines))


if __name__ == "__main__":
    run_script(main)
