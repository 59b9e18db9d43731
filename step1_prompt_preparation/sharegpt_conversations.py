"""ShareGPT conversations in all their shapes: what opened one, if a human did and got an answer."""

import re
from dataclasses import dataclass
from typing import Any

from prompt_records import is_valid_unicode
from row_files import UNREADABLE_ROW

TURN_FIELDS = ("conversations", "items")
TEXT_FIELDS = ("markdown", "value", "text")  # a markdown field is the cleaner of the two
ID_FIELDS = ("id", "conversation_id")
COLUMNS = (*ID_FIELDS, *TURN_FIELDS)
HUMANS = ("human", "user")
MOST_CHARACTERS = 100_000  # far above any prompt length that a later step keeps
PIECE_ID = re.compile(r".+_(\d+)")


@dataclass(frozen=True)
class Opening:
    """A conversation's opening prompt, or (reason set) why it has none that can be used."""

    text: Any
    reason: str | None = None


def has_turn_field(row: Any) -> bool:
    """Whether the row is a conversation at all."""
    return isinstance(row, dict) and any(field in row for field in TURN_FIELDS)


def opening_prompt(row: Any) -> Opening:
    """The first turn, where a human opened and somebody answered.

    Long conversations are spread in pieces with ids like abc_0, abc_8: a piece that is not the
    first does not open the conversation, whoever speaks first in it.
    """
    if row is UNREADABLE_ROW:
        return Opening(None, "invalid_unicode")
    if not isinstance(row, dict):
        return Opening(row, "not_a_conversation")
    turns = next((row[field] for field in TURN_FIELDS if row.get(field) is not None), None)
    if not isinstance(turns, list) or not turns:
        return Opening(None, "no_turns")
    if not all(isinstance(turn, dict) for turn in turns):
        return Opening(turns, "malformed_turn")
    while turns and turns[0].get("from") == "system":
        turns = turns[1:]
    text = _text(turns[0]) if turns else None
    return Opening(text, _piece_reason(row) or _turns_reason(turns) or _text_reason(text))


def _piece_reason(row: dict[str, Any]) -> str | None:
    name = next((row[field] for field in ID_FIELDS if isinstance(row.get(field), str)), "")
    piece = PIECE_ID.fullmatch(name)
    return "later_piece" if piece and int(piece[1]) > 0 else None


def _turns_reason(turns: list[dict[str, Any]]) -> str | None:
    if not turns or turns[0].get("from") not in HUMANS:
        return "not_opened_by_human"
    answered = any(
        turn.get("from") not in HUMANS and (_text(turn) or "").strip() for turn in turns[1:]
    )
    return None if answered else "unanswered"


def _text(turn: dict[str, Any]) -> str | None:
    return next((turn[field] for field in TEXT_FIELDS if isinstance(turn.get(field), str)), None)


def _text_reason(text: str | None) -> str | None:
    if text is None:
        return "no_text"
    if not text.strip():
        return "empty"
    if len(text) > MOST_CHARACTERS:
        return "too_long"
    return None if is_valid_unicode(text) else "invalid_unicode"
