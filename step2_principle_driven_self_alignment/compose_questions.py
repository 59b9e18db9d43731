"""Makes the requests for one turn of a benchmark's questions, to be answered by the generator.

Reads:  questions (FastChat's, AlpacaEval's, prompt records, or plain text with one a line), and
        the responses to the turns before this one.
Writes: a JSON array of requests for generate_self_align_response.py, with its --prompt_file.
        Ends with code 3 and writes nothing where no question has such a turn.

    python compose_questions.py --questions question.jsonl --turn 1 --output_file turn_1.json
    python compose_questions.py --questions question.jsonl --turn 2 --output_file turn_2.json \\
        --responses answers/turn_{turn}.jsonl
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from filter_settings import number
from prompt_format import PromptFormat, read_prompt_format
from question_files import Question, read_questions, request_id, write_rows
from response_shards import ResponseReader, find_shards, run_name
from user_error import CommandLine, TryAgainError, run_script

logger = logging.getLogger("compose")

EXIT_NO_SUCH_TURN = 3
PROMPT_FILE = (
    Path(__file__).resolve().parent.parent
    / "prompts"
    / "inference_prompts"
    / "dromedary_standard_distill.txt"
)


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--questions", type=Path, required=True, help="question.jsonl, .json, .parquet or .txt")
    add("--turn", type=number(int, 1), default=1, help="which turn is asked, from 1")
    add("--responses", help="the generator's --output_file, with {turn} for the turn's number")
    add("--prompt_file", type=Path, default=PROMPT_FILE, help="as given to the generator")
    add("--output_file", type=Path, required=True, help="the requests to write: NAME.json")
    args = parser.parse_args()
    if args.turn > 1 and "{turn}" not in (args.responses or ""):
        parser.error(f"--turn {args.turn} follows earlier ones; give --responses 'NAME_{{turn}}'")
    return args


def main() -> int:
    """Writes the requests; returns the exit code."""
    args = parse_args()
    dialogue = read_prompt_format(args.prompt_file)
    questions = [q for q in read_questions(args.questions) if len(q.turns) >= args.turn]
    if not questions:
        logger.info("no question has a turn %d", args.turn)
        return EXIT_NO_SUCH_TURN
    turns_before = range(1, args.turn)
    replies = [read_replies(args.responses, turn) for turn in turns_before]
    requests = [make_request(question, args.turn, replies, dialogue) for question in questions]
    write_rows(args.output_file, requests)
    logger.info("%d requests for turn %d: %s", len(requests), args.turn, args.output_file)
    return 0


def read_replies(responses: str, turn: int) -> dict[str, str]:
    """The replies of a turn, by request id."""
    shards = find_shards(run_name(responses.replace("{turn}", str(turn))))
    return {row["id"]: row["output"].strip() for row in ResponseReader(shards).read()}


def make_request(
    question: Question, turn: int, replies: list[dict[str, str]], dialogue: PromptFormat
) -> dict[str, Any]:
    """The request for a turn: it holds what was said before. TryAgainError without an answer."""
    said = question.turns[0]
    for before in range(1, turn):
        reply = replies[before - 1].get(request_id(question, before))
        if reply is None:
            raise TryAgainError(
                f"question {question.id} has no answer to turn {before}; generate that turn first"
            )
        next_turn = f"\n\n{dialogue.ends_with}{dialogue.before}{question.turns[before]}"
        said += f"{dialogue.cue}{reply}{next_turn}"
    return {"id": request_id(question, turn), "instruction": said, "turn": turn}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(run_script(main))
