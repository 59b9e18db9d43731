"""Questions of benchmarks, in the forms that their tools have, and answers in the forms they read.

Read:     FastChat's `question.jsonl` (`question_id`, `turns`: one or more), AlpacaEval's list
          (`instruction`, `dataset`), prompt records, and plain text with a question a line (.txt).
Written:  FastChat's `model_answer/MODEL.jsonl`, AlpacaEval's list of outputs, and plain records.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hand_written_text import read_text
from prompt_file import prompt_id_of, read_rows
from prompt_format import joined_prompt
from user_error import UserError


@dataclass(frozen=True)
class Question:
    """One question: what the user says, turn by turn, and the row that it comes from."""

    id: str
    turns: tuple[str, ...]
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fastchat(self) -> bool:
        return "turns" in self.row


@dataclass(frozen=True)
class Answer:
    """The replies to the turns of a question, and how each ended."""

    question: Question
    replies: tuple[str, ...]
    finish_reasons: tuple[str, ...]


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; UserError with file and row for what is none."""
    if path.suffix == ".txt":
        lines = enumerate(read_text(path, "the questions").split("\n"), start=1)
        rows: Iterable[tuple[int, Any]] = (
            (number, {"instruction": line.strip()}) for number, line in lines if line.strip()
        )
    else:
        rows = read_rows(path)
    questions: dict[str, Question] = {}
    for row_number, row in rows:
        try:
            question = _question(row)
            earlier = questions.setdefault(question.id, question)
            if earlier.turns != question.turns:
                raise ValueError(f"the id {question.id!r} also belongs to another question")
        except ValueError as error:
            raise UserError(f"{path}, row {row_number}: {error}") from None
    if not questions:
        raise UserError(f"{path} is empty: no questions to answer")
    return list(questions.values())


def _question(row: Any) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with 'turns' or 'instruction', found {row!r:.60}")
    if "turns" in row:
        turns, question_id = row["turns"], row.get("question_id")
        if not isinstance(turns, list) or not turns:
            raise ValueError("'turns' is not a list of texts")
        if not isinstance(question_id, int | str) or isinstance(question_id, bool):
            raise ValueError("'question_id' is missing, or neither a number nor a text")
    elif "instruction" in row:
        instruction, text = row["instruction"], row.get("input") or ""
        if not isinstance(text, str):
            raise ValueError(f"'input' is {text!r:.60}, not a text")
        turns = [joined_prompt(instruction, text) if isinstance(instruction, str) else instruction]
        question_id = row.get("id") or (
            prompt_id_of(instruction, text) if isinstance(instruction, str) else ""
        )
    else:
        raise ValueError(f"neither 'turns' nor 'instruction'; its fields are {', '.join(row)}")
    for turn in turns:
        if not isinstance(turn, str) or not turn.strip():
            raise ValueError(f"a turn is {turn!r:.60}, not a text")
    return Question(str(question_id), tuple(turn.strip() for turn in turns), row)


def request_id(question: Question, turn: int) -> str:
    """The id of the request for a turn (from 1): a sampled answer depends on it and the seed."""
    return question.id if turn == 1 else f"{question.id}, turn {turn}"


def fastchat_rows(answers: Iterable[Answer], model: str) -> Iterator[dict[str, Any]]:
    """Rows of FastChat's `model_answer/MODEL.jsonl`."""
    for answer in answers:
        question_id = answer.question.row["question_id"]
        yield {
            "question_id": question_id,
            "answer_id": hashlib.sha256(f"{model}\0{question_id}".encode()).hexdigest()[:22],
            "model_id": model,
            "choices": [{"index": 0, "turns": list(answer.replies)}],
            "tstamp": time.time(),
        }


def alpaca_eval_rows(answers: Iterable[Answer], model: str) -> Iterator[dict[str, Any]]:
    """Rows of AlpacaEval's list of model outputs."""
    for answer in answers:
        row = answer.question.row
        told = {"dataset": row["dataset"]} if "dataset" in row else {}
        yield {
            "instruction": row["instruction"],
            "output": answer.replies[0],
            "generator": model,
            **told,
        }


def plain_rows(answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """Every question with all that is known of its answer."""
    for answer in answers:
        yield {
            "id": answer.question.id,
            "turns": list(answer.question.turns),
            "replies": list(answer.replies),
            "finish_reasons": list(answer.finish_reasons),
        }


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows beside and renames: an object a line (.jsonl), or an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    is_lines = path.suffix == ".jsonl"
    text = "\n".join(lines) if is_lines else "[\n" + ",\n".join(lines) + "\n]"
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)
