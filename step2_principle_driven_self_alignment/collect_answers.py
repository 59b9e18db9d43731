"""Puts the generator's responses to a benchmark's questions into the files that its judge reads.

Reads:  the questions, and the responses to each of their turns.
Writes: for FastChat's questions OUTPUT_DIR/model_answer/MODEL.jsonl, else
        OUTPUT_DIR/MODEL_outputs.json as AlpacaEval reads it; and OUTPUT_DIR/answers.jsonl.

    python collect_answers.py --questions question.jsonl --responses answers/turn_{turn}.jsonl \\
        --model_name dromedary-2-70b --output_dir answers
"""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from question_files import (
    Answer,
    Question,
    alpaca_eval_rows,
    fastchat_rows,
    plain_rows,
    read_questions,
    request_id,
    write_rows,
)
from response_shards import ResponseReader, find_shards, run_name
from user_error import CommandLine, TryAgainError, run_script

logger = logging.getLogger("collect")


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--questions", type=Path, required=True, help="as given to compose_questions.py")
    add("--responses", required=True, help="as given to compose_questions.py")
    add("--model_name", required=True, help="the model's name in the judge's tables")
    add("--output_dir", type=Path, required=True, help="folder for the answers")
    args = parser.parse_args()
    if "{turn}" not in args.responses:
        parser.error(f"--responses {args.responses} lacks {{turn}}, for the turn's number")
    if not args.model_name or "/" in args.model_name:
        parser.error(f"--model_name {args.model_name!r} can't name a file")
    return args


def main() -> int:
    """Writes the answers; returns the exit code."""
    args = parse_args()
    questions = read_questions(args.questions)
    answers = find_answers(questions, args.responses)
    is_fastchat = [answer for answer in answers if answer.question.is_fastchat]
    others = [answer for answer in answers if not answer.question.is_fastchat]
    judged = args.output_dir / "model_answer" / f"{args.model_name}.jsonl"
    outputs = args.output_dir / f"{args.model_name}_outputs.json"
    if is_fastchat:
        write_rows(judged, fastchat_rows(is_fastchat, args.model_name))
    if others:
        write_rows(outputs, alpaca_eval_rows(others, args.model_name))
    write_rows(args.output_dir / "answers.jsonl", plain_rows(answers))
    report(answers, [path for path, rows in ((judged, is_fastchat), (outputs, others)) if rows])
    return 0


def find_answers(questions: list[Question], responses: str) -> list[Answer]:
    """Each question's answer, in the questions' order; TryAgainError where one is missing."""
    turns = max(len(question.turns) for question in questions)
    records = {}
    for turn in range(1, turns + 1):
        shards = find_shards(run_name(responses.replace("{turn}", str(turn))))
        records |= {row["id"]: row for row in ResponseReader(shards).read()}
    answers, missing = [], []
    for question in questions:
        ids = [request_id(question, turn) for turn in range(1, len(question.turns) + 1)]
        missing += [prompt_id for prompt_id in ids if prompt_id not in records]
        rows = [records[prompt_id] for prompt_id in ids if prompt_id in records]
        replies = tuple(row["output"].strip() for row in rows)
        answers.append(Answer(question, replies, tuple(str(r.get("finish_reason")) for r in rows)))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise TryAgainError(
            f"{len(missing)} turns have no answer ({'; '.join(missing[:3])}{more}); "
            "start the generation again to complete them"
        )
    return answers


def report(answers: list[Answer], paths: list[Path]) -> None:
    """Says how the replies ended and where they lie; a reply that is none is worth a warning."""
    reasons = Counter(reason for answer in answers for reason in answer.finish_reasons)
    empty = [answer.question.id for answer in answers if not all(answer.replies)]
    ended = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    logger.info("%d questions answered (%s): %s", len(answers), ended, ", ".join(map(str, paths)))
    if empty:
        logger.warning(
            "%d questions have an empty reply (%s, …); too_long ones need --max_own_tokens raised",
            *(len(empty), empty[0]),
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_script(main))
