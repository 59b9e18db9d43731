"""The decisions of the method's first implementation, step by step, for comparison.

Selected by `--published_rules`. The differences to RULES of response_filters.py are in the README.
"""

import re
from typing import Any

from filter_settings import FilterSettings
from response_turns import response_text
from verdict import Verdict

REPLY_MARKER = "\n\nWatson:"
USER_MARKER = "\n\nUser:"
END_MARKER = "\n\n### User"
MIN_LENGTH = 160  # of a reply that ended, with its end marker
MAX_PROMPT_ECHO = 16
PIECES = re.compile(r"(?<=[\n.?!;:,`])")
DELIMITERS = frozenset("\n.?!;:,`")


def judge_published(record: dict[str, Any], settings: FilterSettings) -> Verdict:
    """Judges a response record as the first implementation did."""
    instruction, input_text = record["instruction"], record.get("input") or ""
    prompt = (input_text, "") if len(input_text) > MAX_PROMPT_ECHO else (instruction, input_text)
    text = _as_generated(record)
    if not text.startswith(settings.required_opening):
        return Verdict("wrong_opening", "", "", False, *prompt)
    if REPLY_MARKER not in text:
        return Verdict("no_reply", "", "", False, *prompt)
    reply = _until_repeated_piece(text.split(REPLY_MARKER, 1)[1].strip())
    reply, user_marker, _ = reply.partition(USER_MARKER)
    reply, finished = reply.strip(), bool(user_marker)
    if not finished:
        reply = " ".join(reply.split(" ")[:-1])
    marked = reply + END_MARKER if finished else reply
    reason = None
    if finished and len(marked) < MIN_LENGTH:
        reason = "too_short"
    elif any(len(part) > MAX_PROMPT_ECHO and part in marked for part in (instruction, input_text)):
        reason = "prompt_echo"
    elif any(phrase in marked for phrase in settings.blacklist):
        reason = "exemplar_phrase"
    elif not marked:
        reason = "empty"
    return Verdict(reason, "", reply, finished, *prompt)


def _as_generated(record: dict[str, Any]) -> str:
    """The text as the first generator wrote it: no space in front, the user's turn included."""
    text = response_text(record).lstrip()
    stopped = record.get("finish_reason") == "stop" and USER_MARKER not in text
    return text.rstrip() + USER_MARKER if stopped else text


def _until_repeated_piece(reply: str) -> str:
    """The reply up to the first clause that occurred before; empty ones and delimiters may."""
    seen: set[str] = set()
    kept = []
    for piece in PIECES.split(reply):
        if piece in seen:
            break
        if piece and piece not in DELIMITERS:
            seen.add(piece)
        kept.append(piece)
    return "".join(kept).strip()
