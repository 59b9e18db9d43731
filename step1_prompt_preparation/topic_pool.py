"""The kinds of questions, their seeds, and the pool of topics that rounds of generation add to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import InputError
from normalized_text import normalized_key
from prompt_sources import find_sources, read_rows

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
TYPES_FILE = PROMPTS / "topic_guided" / "types.jsonl"


@dataclass(frozen=True)
class QuestionType:
    """One kind of question: its name, its share of all prompts, and what a person wrote for it."""

    name: str
    weight: float
    topics: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]  # (topic, question)


@dataclass(frozen=True)
class Topic:
    """A topic of the pool; `round` is 0 for a seed, `parent_id` the request that gave it."""

    type: str
    topic: str
    round: int = 0
    parent_id: str = ""

    @property
    def key(self) -> tuple[str, bytes]:
        """Equal for topics of one kind that differ in case, blanks or punctuation alone."""
        return self.type, normalized_key(self.topic)


def read_types(path: Path) -> list[QuestionType]:
    """The kinds of questions in the order of the file.

    Raises:
        InputError: a row is malformed (names file and row), or a kind occurs twice.
    """
    types: dict[str, QuestionType] = {}
    for number, row in _rows(path, "--types_file"):
        try:
            question_type = _question_type(row)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: row {number}: {error}") from None
        if question_type.name in types:
            raise InputError(
                f"{path}: row {number}: the type {question_type.name!r} is there twice"
            )
        types[question_type.name] = question_type
    if not types:
        raise InputError(f"{path}: it holds no type")
    return list(types.values())


def _question_type(row: Any) -> QuestionType:
    if not isinstance(row, dict) or not {"type", "topics", "questions"} <= row.keys():
        raise ValueError("a type needs the fields 'type', 'topics' and 'questions'")
    name, weight = row["type"], row.get("weight", 1)
    if not isinstance(name, str) or not name.strip() or any(mark in name for mark in ";()\n"):
        raise ValueError(f"the type {name!r} must be a name without ; ( ) and line breaks")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise ValueError(f"the weight {weight!r} of {name!r} must be a number above 0")
    topics = row["topics"]
    if not isinstance(topics, list) or len(topics) < 2 or not all(map(_is_text, topics)):
        raise ValueError(f"'topics' of {name!r} must be a list of two or more texts")
    questions = row["questions"]
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"'questions' of {name!r} must be a list with at least one question")
    for question in questions:
        if not isinstance(question, dict) or not all(
            _is_text(question.get(field)) for field in ("topic", "question")
        ):
            raise ValueError(f"a question of {name!r} needs the texts 'topic' and 'question'")
    return QuestionType(
        name.strip(),
        float(weight),
        tuple(topic.strip() for topic in topics),
        tuple((q["topic"].strip(), q["question"].strip()) for q in questions),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value


def seed_topics(types: Iterable[QuestionType]) -> list[Topic]:
    """The topics that a person wrote."""
    return [Topic(kind.name, topic) for kind in types for topic in kind.topics]


def read_pool(path: Path | None, types: list[QuestionType]) -> list[Topic]:
    """The seeds, and behind them the topics of a pool file where there is one.

    Raises:
        InputError: a row is malformed or of a type that the types file does not have.
    """
    topics = {topic.key: topic for topic in seed_topics(types)}
    names = {kind.name for kind in types}
    for number, row in _rows(path, "--pool") if path else ():
        fields = (row.get(name) for name in ("type", "topic", "round", "parent_id"))
        topic = Topic(*fields) if isinstance(row, dict) else None
        if topic is None or not _is_text(topic.topic) or topic.type not in names:
            raise InputError(
                f"{path}: row {number} is no topic of a known type: {json.dumps(row)[:80]}"
            )
        topics.setdefault(topic.key, topic)
    return list(topics.values())


def by_type(types: list[QuestionType], topics: Iterable[Topic]) -> dict[str, list[str]]:
    """The topics of each kind."""
    found: dict[str, list[str]] = {kind.name: [] for kind in types}
    for topic in topics:
        found[topic.type].append(topic.topic)
    return found


def _rows(path: Path, flag: str) -> Iterable[tuple[int, Any]]:
    [source] = find_sources([str(path)], flag, (".jsonl", ".json"))
    return read_rows(source)
