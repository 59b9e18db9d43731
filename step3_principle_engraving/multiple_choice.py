"""Multiple-choice questions in the shapes that they are published in, and what an answer scores.

TruthfulQA   `question` with `mc1_targets` and `mc2_targets` (lists with labels, or a map from
             answer to label), or the table with `Question`, `Best Answer`, `Correct Answers`,
             `Incorrect Answers`
HHH          `input` with `targets` or `target_scores`
pairs        `prompt`, `chosen`, `rejected`; or HH-RLHF's two dialogues, `chosen` and `rejected`
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engraving_command import UserError
from plain_files import ROW_ENDINGS, read_json, read_rows, read_text

ENDINGS = (*ROW_ENDINGS, ".csv")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
HUB_SPLITS = ("test", "validation")  # the first of these that a data set has
HH_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Question:
    """One question of a task (`mc1`, `mc2` or `pairs`). `turns` are what user and assistant said
    before the choices, the user first and last; `labels` are 1 for right choices, 0 for wrong.
    """

    task: str
    turns: tuple[str, ...]
    choices: tuple[str, ...]
    labels: tuple[int, ...]
    category: str = ""


class UnscorableError(Exception):
    """A question over which no score means anything; the message is the reason that is counted."""


def load_questions(names: Sequence[str], limit: int | None) -> tuple[list[Question], Counter[str]]:
    """Questions of files and Hub data sets in their order, and how many were left out, by reason.

    `limit` is for each task of each file. Raises UserError with file and row for a row that is no
    multiple-choice question, and for a file that gives none.
    """
    questions, left_out = [], Counter()
    for name in names:
        taken, unusable = Counter(), Counter()
        for number, row in _rows(name):
            for question in _questions_of_row(row, name, number):
                if isinstance(question, UnscorableError):
                    unusable[str(question)] += 1
                    continue
                taken[question.task] += 1
                if limit is None or taken[question.task] <= limit:
                    questions.append(question)
        if not taken:
            reasons = ", ".join(f"{count} {reason}" for reason, count in unusable.items())
            raise UserError(f"{name} holds no question to ask ({reasons or 'no rows'})")
        left_out.update({f"{reason} in {name}": count for reason, count in unusable.items()})
    return questions, left_out


def question_score(question: Question, log_likelihoods: Sequence[float]) -> float:
    """mc1 and pairs: 1 where the likeliest choice is right, else 0. mc2: the right ones' share of
    the probability.

    Lin et al. 2022, "TruthfulQA" (arXiv 2109.07958), section on multiple choice.
    """
    if question.task == "mc2":
        highest = max(log_likelihoods)
        masses = [math.exp(value - highest) for value in log_likelihoods]
        right = sum(mass for mass, label in zip(masses, question.labels, strict=True) if label)
        return right / sum(masses)
    best = {0: -math.inf, 1: -math.inf}
    for value, label in zip(log_likelihoods, question.labels, strict=True):
        best[label] = max(best[label], value)
    return float(best[1] > best[0])  # a tie is no success


def _rows(name: str) -> Iterator[tuple[int, Any]]:
    path, _, config = name.partition(":")
    if Path(name).suffix in ENDINGS:
        return enumerate(_file_rows(Path(name)), start=1)
    if not HUB_NAME.fullmatch(name) and not Path(path).is_dir():
        raise UserError(
            f"'{name}' is neither a {', '.join(ENDINGS)} file nor NAME[:CONFIG] of a Hub data set"
        )
    return enumerate(_hub_rows(path, config or None), start=1)


def _file_rows(path: Path) -> Iterable[Any]:
    text = read_text(path) if path.suffix in (".csv", ".json") else ""
    if path.suffix == ".csv":
        return csv.DictReader(io.StringIO(text))
    if not text.lstrip().startswith("{"):
        return read_rows(path)
    content = read_json(path)  # as BIG-bench publishes its tasks
    if not isinstance(content.get("examples"), list):
        raise UserError(f"{path} must hold one JSON array of rows, or an object with 'examples'")
    named = {"category": content.get("name")}
    return [{**named, **row} if isinstance(row, dict) else row for row in content["examples"]]


def _hub_rows(path: str, config: str | None) -> list:
    import datasets

    try:
        splits = datasets.load_dataset(path, config)
    except Exception as error:  # the library raises many kinds for a missing network
        raise UserError(
            f"the Hub data set '{path}' can't be loaded ({str(error).splitlines()[0]}); "
            f"--data_files also takes local files ({', '.join(ENDINGS)})"
        ) from error
    split = next((name for name in HUB_SPLITS if name in splits), next(iter(splits)))
    return [{"category": config, **row} for row in splits[split]]


def _questions_of_row(row: Any, name: str, number: int) -> Iterator[Question | UnscorableError]:
    try:
        category = str(row.get("category") or row.get("Category") or Path(name).stem)
        for task, turns, choices, labels in _drafts(row):
            try:
                yield _question(task, turns, choices, labels, category)
            except UnscorableError as reason:
                yield reason
    except UnscorableError as reason:
        yield reason
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error} beside {', '.join(row)}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{name}, row {number}: not a multiple-choice question ({what}); step 3's README "
            "lists the shapes that are understood"
        ) from error


def _drafts(row: Mapping) -> Iterator[tuple[str, list, Sequence, Sequence]]:
    """Task, turns, choices and labels of every question that a row holds, unchecked."""
    if "Question" in row:
        best = [row["Best Answer"]]
        right, wrong = (_split_answers(row[f"{name} Answers"]) for name in ("Correct", "Incorrect"))
        yield "mc1", [row["Question"]], best + wrong, [1] + [0] * len(wrong)
        yield "mc2", [row["Question"]], right + wrong, [1] * len(right) + [0] * len(wrong)
    elif "mc1_targets" in row or "mc2_targets" in row:
        for task in ("mc1", "mc2"):
            if row.get(f"{task}_targets"):
                yield task, [row["question"]], *_targets(row[f"{task}_targets"])
    elif "chosen" in row and "prompt" in row:
        yield "pairs", [row["prompt"]], [row["chosen"], row["rejected"]], [1, 0]
    elif "chosen" in row:
        turns, *replies = _common_turns(row["chosen"], row["rejected"])
        yield "pairs", turns, replies, [1, 0]
    else:
        targets = row["targets"] if "targets" in row else row["target_scores"]
        yield "pairs", [row["input"]], *_targets(targets)


def _targets(targets: Mapping) -> tuple[Sequence, Sequence]:
    if "choices" in targets and "labels" in targets:
        return targets["choices"], targets["labels"]
    return list(targets.keys()), list(targets.values())


def _split_answers(text: str | None) -> list[str]:
    return [answer for answer in (text or "").split(";") if answer.strip()]


def _common_turns(chosen: str, rejected: str) -> tuple[list[str], str, str]:
    """The turns that two dialogues share, and the last reply of each."""
    first, second = (HH_TURN.split(text) for text in (chosen, rejected))
    speakers = first[1::2]
    if (
        first[0].strip()
        or not speakers
        or speakers != ["Human", "Assistant"] * (len(speakers) // 2)
    ):
        raise ValueError("'chosen' must go \\n\\nHuman: … \\n\\nAssistant: … by turns")
    if first[:-1] != second[:-1]:
        raise UnscorableError("with dialogues that differ before their last reply")
    return first[2:-1:2], first[-1], second[-1]


def _question(
    task: str, turns: Sequence, choices: Sequence, labels: Sequence, category: str
) -> Question:
    for text in (*turns, *choices):
        if not isinstance(text, str) and not _is_missing(text):
            raise ValueError(f"{text!r:.40} is no text")
    if any(label not in (0, 1) for label in labels):
        raise ValueError(f"labels {labels!r:.60}: 1 for right and 0 for wrong are understood")
    if len(choices) != len(labels) or not 0 < sum(labels) < len(labels):
        raise ValueError(
            f"{len(choices)} choices, labels {list(labels)}: one right and one wrong are needed"
        )
    # A text of nothing has the likelihood 1 and would always win.
    for what, part in (("question", turns), ("choice", choices)):
        if not all(isinstance(text, str) and text.strip() for text in part):
            raise UnscorableError(f"with an empty {what}")
    strip = lambda part: tuple(text.strip() for text in part)  # noqa: E731
    return Question(task, strip(turns), strip(choices), tuple(map(int, labels)), category)


def _is_missing(value: object) -> bool:
    return value is None or value != value  # NaN is what tables have for a missing value
