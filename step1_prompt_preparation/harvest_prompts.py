"""Takes prompts out of the responses to topic-guided and Self-Instruct requests.

Reads    requests and responses of either kind, and the seeds (no prompt may come too near to one).
Writes   a JSON array of prompt records with `type`, `topic` and `parent_id` (the request), whose
         `source` is `tgrt/TYPE` or `self_instruct`; beside it OUTPUT.report.json and .report.html.

A line counts only if it opens with exactly the number, kind and topic that was asked for. Prompts
whose ROUGE-L with a seed or an earlier prompt is above --most_similar are dropped.

    python harvest_prompts.py --requests question_requests.json,self_instruct_requests.json \
        --responses "question_responses_*shards_*.jsonl,self_instruct_responses_*shards_*.jsonl" \
        --output_file synthetic_prompts.json
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import (
    InputError,
    ScriptParser,
    comma_list,
    fraction,
    refuse_overwriting,
    run_script,
)
from compose_self_instruct_requests import SEED_TASKS, read_seed_tasks
from harvest_report import HarvestReport
from harvest_rules import PROMPT_RULES, broken_rule, numbered_items
from prompt_records import prompt_record, seeded_digest
from request_files import AnsweredRequest, read_answers, read_requests, write_requests
from topic_pool import TYPES_FILE, read_types

SELF_INSTRUCT = "self_instruct"


@dataclass(frozen=True)
class Proposal:
    """A prompt that the model wrote; `type` and `topic` are empty in the Self-Instruct branch."""

    text: str
    type: str
    topic: str
    parent_id: str

    @property
    def source(self) -> str:
        return f"tgrt/{self.type}" if self.type else SELF_INSTRUCT

    def record(self) -> dict[str, Any]:
        """The prompt record."""
        fields = {"type": self.type, "topic": self.topic, "parent_id": self.parent_id}
        extra = {name: value for name, value in fields.items() if value}
        return prompt_record(self.text, self.source, extra=extra)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Take prompts out of the responses to requests.")
    add = parser.add_argument
    add("--requests", type=comma_list, required=True, metavar="FILE,...", help="what was asked")
    add(
        "--responses",
        type=comma_list,
        required=True,
        metavar="PATTERN,...",
        help="shards, in quotes",
    )
    add("--types_file", type=Path, default=TYPES_FILE, metavar="FILE", help="kinds and examples")
    add("--seed_tasks", type=Path, default=SEED_TASKS, metavar="FILE", help="tasks of a person")
    add("--output_file", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add(
        "--most_similar",
        type=fraction,
        default=0.7,
        metavar="FRACTION",
        help="ROUGE-L with an earlier prompt above which a prompt is dropped",
    )
    add("--allow_missing", action="store_true", help="go on where requests have no response")
    add("--seed", type=int, default=42, metavar="INTEGER", help="of which similar prompt stays")
    args = parser.parse_args()
    refuse_overwriting(parser, {"--output_file": args.output_file}, args.requests, (".json",))
    return args


def main() -> None:
    """Read, take apart, drop, write."""
    args = parse_args()
    types = read_types(args.types_file)
    seeds = [text for kind in types for _, text in kind.questions]
    seeds += read_seed_tasks(args.seed_tasks)
    answers = read_answers(read_requests(args.requests), args.responses, args.allow_missing)
    report = HarvestReport([f"tgrt/{kind.name}" for kind in types] + [SELF_INSTRUCT])
    proposals = [proposal for answer in answers for proposal in propose(answer, report)]
    # Which of two similar prompts stays depends on a seeded hash, not on the order of shards.
    proposals.sort(key=lambda p: (seeded_digest(p.text.encode(), args.seed), p.parent_id))
    kept = drop_similar(proposals, seeds, args.most_similar, report)
    if not kept:
        print(report.table())
        raise InputError(
            f"no prompt is left (see the table above); {args.output_file} is not written"
        )
    write_requests(args.output_file, [proposal.record() for proposal in kept])
    report.write(args.output_file, answers=len(answers), prompts=len(kept))


def propose(answer: AnsweredRequest, report: HarvestReport) -> Iterator[Proposal]:
    """The prompts of a response that keep the rules; the others are counted."""
    request = answer.request
    pairs = request.get("pairs")
    first = 1 if pairs else request.get("first_number", 1)
    for number, text, reason in numbered_items(answer.text, first, answer.finished):
        kind = topic = ""
        if pairs and number > len(pairs):
            return
        if pairs:
            kind, topic = pairs[number - 1]["type"], pairs[number - 1]["topic"]
            head = f"({kind}; {topic})"
            if reason is None and not text.startswith(head):
                reason = "wrong_head"
            text = text.removeprefix(head).strip()
        proposal = Proposal(text, kind, topic, request["id"])
        report.propose(proposal.source)
        reason = reason or ("empty" if not text else broken_rule(PROMPT_RULES, text))
        if reason:
            report.drop(proposal.source, reason, text)
        else:
            yield proposal


def drop_similar(
    proposals: list[Proposal], seeds: list[str], limit: float, report: HarvestReport
) -> list[Proposal]:
    """The proposals that are near neither to a seed nor to an earlier one."""
    from rouge_similarity import find_similar

    similar = find_similar([proposal.text for proposal in proposals], limit, seeds)
    kept = []
    for index, proposal in enumerate(proposals):
        if index not in similar:
            report.keep(proposal.source)
            kept.append(proposal)
            continue
        other, score = similar[index]
        near = seeds[-1 - other] if other < 0 else proposals[other].text
        report.drop(proposal.source, "similar", proposal.text, f"{score:.2f} with: {near}")
    return kept


if __name__ == "__main__":
    run_script(main)
