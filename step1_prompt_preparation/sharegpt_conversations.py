"""ShareGPT conversations in all their shapes: what opened one, if a human did and got an answer."""

import json
from dataclasses import dataclass
from typing import Any

from prompt_records import is_valid_unicode
from row_files import UNREADABLE_ROW

TURN_FIELDS = ("conversations", "items", "messages", "conversation")
SPEAKER_FIELDS = ("from", "role")
TEXT_FIELDS = ("markdown", "value", "text", "content")  # a markdown field is the cleanest
ID_FIELDS = ("id", "conversation_id")
COLUMNS = (*ID_FIELDS, *TURN_FIELDS)
HUMANS = ("human", "user", "prompter")
MOST_CHARACTERS = 100_000  # far above any prompt length that a later step keeps


@dataclass(frozen=True)
class Opening:
    """A conversation's opening prompt, or (reason set) why it has none that can be used."""

    text: Any
    reason: str | None = None
    name: str = ""  # the conversation's id
    turns: int = 0
    human_first: bool = False


def has_turn_field(row: Any) -> bool:
    """Whether the row is a conversation at all."""
    return isinstance(row, dict) and any(field in row for field in TURN_FIELDS)


def opening_prompt(row: Any) -> Opening:
    """The first turn, where a human opened and somebody answered."""
    if row is UNREADABLE_ROW:
        return Opening(None, "invalid_unicode")
    if not isinstance(row, dict):
        return Opening(row, "not_a_conversation")
    turns = _turns(row)
    if not isinstance(turns, list) or not turns:
        return Opening(None, "no_turns")
    if not all(isinstance(turn, dict) for turn in turns):
        return Opening(turns, "malformed_turn")
    spoken = turns
    while spoken and _speaker(spoken[0]) == "system":
        spoken = spoken[1:]
    text = _text(spoken[0]) if spoken else None
    name = next((row[field] for field in ID_FIELDS if isinstance(row.get(field), str)), "")
    reason = _turns_reason(spoken) or _text_reason(text)
    return Opening(text, reason, name, len(turns), bool(spoken) and _speaker(spoken[0]) in HUMANS)


def _turns(row: dict[str, Any]) -> Any:
    """The list of turns; some tables hold it as JSON text."""
    turns = next((row[field] for field in TURN_FIELDS if row.get(field) is not None), None)
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        try:
            return json.loads(turns)
        except (ValueError, RecursionError):
            return None
    return turns


def _turns_reason(turns: list[dict[str, Any]]) -> str | None:
    if turns and not any(field in turns[0] for field in SPEAKER_FIELDS):
        return "turn_without_speaker"
    if not turns or _speaker(turns[0]) not in HUMANS:
        return "not_opened_by_human"
    answered = any(
        _speaker(turn) not in HUMANS and (_text(turn) or "").strip() for turn in turns[1:]
    )
    return None if answered else "unanswered"


def _speaker(turn: dict[str, Any]) -> str | None:
    name = next((turn[field] for field in SPEAKER_FIELDS if isinstance(turn.get(field), str)), None)
    return name.strip().lower() if name else None


def _text(turn: dict[str, Any]) -> str | None:
    """A turn's text; of a list of parts, as chat servers write it, the text parts."""
    for field in TEXT_FIELDS:
        value = turn.get(field)
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            parts = [part["text"] for part in value if isinstance(part.get("text"), str)]
            value = "\n".join(parts) if parts else None
        if isinstance(value, str):
            return value
    return None


def _text_reason(text: str | None) -> str | None:
    if text is None:
        return "no_text"
    if not text.strip():
        return "empty"
    if len(text) > MOST_CHARACTERS:
        return "too_long"
    return None if is_valid_unicode(text) else "invalid_unicode"
