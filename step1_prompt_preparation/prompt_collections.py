"""The collections that are merged: their rows as (prompt, or the reason why not), one at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from command_line import InputError
from prompt_sources import PromptSource, read_rows
from row_files import UNREADABLE_ROW

OPENORCA = ("niv", "flan", "t0", "cot")  # its collections
CONTEXT_FREE = ("creative_writing", "brainstorming", "open_qa", "general_qa", "classification")
DOLLY_FIELDS = ("instruction", "context", "category")
OASST_FIELDS = ("message_id", "parent_id", "text", "role")
PROMPT_FIELDS = ("id", "instruction", "input", "output", "source")


@dataclass(frozen=True)
class CandidatePrompt:
    """One row of a collection; `reason` says why it is none of the prompts that we want."""

    source: str
    instruction: Any
    input: Any = ""
    reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_prompt_records(source: PromptSource, default_source: str) -> Iterator[CandidatePrompt]:
    """Prompt records of this stage or of other tools (an `instruction` is all that they need)."""
    for number, row in read_rows(source):
        if row is UNREADABLE_ROW:
            yield CandidatePrompt(default_source, None, reason="invalid_unicode")
            continue
        if not isinstance(row, dict) or "instruction" not in row:
            raise InputError(
                f"{source.name}: row {number} is no prompt record: it has no field 'instruction'"
            )
        name = row.get("source")
        yield CandidatePrompt(
            name if isinstance(name, str) and name else default_source,
            row["instruction"],
            "" if row.get("input") is None else row["input"],
            extra={key: value for key, value in row.items() if key not in PROMPT_FIELDS},
        )


def read_dolly(source: PromptSource) -> Iterator[CandidatePrompt]:
    """Rows of Dolly-15k; those of the five categories that need no context are wanted.

    Raises:
        InputError: a row lacks one of the fields.
    """
    for number, row in read_rows(source):
        if row is UNREADABLE_ROW:
            yield CandidatePrompt("dolly", None, reason="invalid_unicode")
            continue
        missing = _missing(row, DOLLY_FIELDS)
        if missing:
            raise InputError(f"{source.name}: row {number} has no field {missing}")
        reason = None
        if row["category"] not in CONTEXT_FREE:
            reason = "needs_context"
        elif isinstance(row["context"], str) and row["context"].strip():
            reason = "has_context"
        yield CandidatePrompt("dolly", row["instruction"], reason=reason)


def read_oasst(
    source: PromptSource, languages: list[str] | None = None
) -> Iterator[CandidatePrompt]:
    """Messages of OASST1; roots that have an answer, in the languages asked for, are wanted.

    Both published forms are read: a message a row, and a tree a row (`prompt` with its `replies`).

    Raises:
        InputError: a row is neither.
    """
    roots: dict[str, dict[str, Any]] = {}
    answered: set[str] = set()
    for row in _oasst_messages(source):
        if isinstance(row, CandidatePrompt):
            yield row
        elif not _has_ids(row):
            yield CandidatePrompt("oasst1", row["text"], reason="malformed_message")
        elif row["parent_id"] is None:
            if row["message_id"] in roots:
                yield CandidatePrompt("oasst1", row["text"], reason="duplicate")
            roots.setdefault(row["message_id"], row)
        else:
            if not row.get("deleted"):
                answered.add(row["parent_id"])
            yield CandidatePrompt("oasst1", row["text"], reason="not_a_root")
    for message_id, row in roots.items():
        reason = None
        if row["role"] != "prompter" or row.get("deleted"):
            reason = "deleted" if row.get("deleted") else "not_opened_by_human"
        elif message_id not in answered:
            reason = "unanswered"
        elif languages and row.get("lang") not in languages:
            reason = "other_language"
        yield CandidatePrompt("oasst1", row["text"], reason=reason)


def _oasst_messages(source: PromptSource) -> Iterator[Any]:
    for number, row in read_rows(source):
        if row is UNREADABLE_ROW:
            yield CandidatePrompt("oasst1", None, reason="invalid_unicode")
            continue
        waiting = [row]
        if isinstance(row, dict) and isinstance(row.get("prompt"), dict):
            waiting = [{"parent_id": None, **row["prompt"]}]
        while waiting:
            message = waiting.pop()
            if missing := _missing(message, OASST_FIELDS):
                raise InputError(
                    f"{source.name}: row {number} has no field {missing}; OASST1 is read as one "
                    "message a row, or as one tree with a 'prompt' a row"
                )
            yield message
            waiting += reversed(message.get("replies") or [])


def _has_ids(row: dict[str, Any]) -> bool:
    return isinstance(row["message_id"], str) and isinstance(row["parent_id"], str | None)


def _missing(row: Any, fields: tuple[str, ...]) -> str:
    """The names of the fields that a row lacks."""
    return ", ".join(repr(f) for f in fields if not isinstance(row, dict) or f not in row)


PromptReader = Callable[[PromptSource], Iterator[CandidatePrompt]]
