"""The decisions of the method's first implementation, step by step, for comparison.

Selected by `--published_rules`. The differences to RULES of response_filters.py are in the README.
"""

import re
from typing import Any

from filter_settings import FilterSettings
from response_text import Verdict

END_MARKER = "\n\n### User\n"
MIN_LENGTH = 160  # of a reply that ended, with its end marker
MAX_PROMPT_ECHO = 16
CLAUSES = re.compile(r"(?<=[\n.?!;:,`])")
DELIMITERS = frozenset("\n.?!;:,`")


def judge_published(record: dict[str, Any], settings: FilterSettings) -> Verdict:
    """Judges a response record as the first implementation did."""
    instruction, input_text = record["instruction"], record.get("input") or ""
    long_input = len(input_text) > MAX_PROMPT_ECHO
    prompt = (input_text, "") if long_input else (instruction, input_text)
    reply_marker, user_marker = (
        f"\n{marker}" for marker in (settings.dialogue.reply_marker, settings.dialogue.end_marker)
    )
    text = _as_generated(record, user_marker)
    if not text.startswith(settings.required_opening):
        return Verdict("wrong_opening", "", "", False, *prompt)
    if reply_marker not in text:
        return Verdict("no_reply", "", "", False, *prompt)
    reply = _until_repeated_clause(text.split(reply_marker, 1)[1].strip())
    reply, ended, _ = reply.partition(user_marker)
    reply, finished = reply.strip(), bool(ended)
    if not finished:
        reply = reply.rsplit(" ", 1)[0]
    marked = reply + END_MARKER if finished else reply
    parts = (part for part in (instruction, input_text) if len(part) > MAX_PROMPT_ECHO)
    reason = None
    if record.get("finish_reason") == "abandoned":  # a fragment, which there were none of
        reason = "given_up"
    elif finished and len(marked) < MIN_LENGTH:
        reason = "too_short"
    elif any(part in marked for part in parts):
        reason = "prompt_echo"
    elif any(phrase in marked for phrase in settings.blacklist):
        reason = "exemplar_phrase"
    elif not marked:
        reason = "empty"
    return Verdict(reason, "", reply, finished, *prompt)


def _as_generated(record: dict[str, Any], user_marker: str) -> str:
    """The text as the first generator wrote it: no space in front, the user's turn included."""
    text = record["output"].lstrip()
    stopped = record.get("finish_reason") == "stop" and user_marker not in text
    return text.rstrip() + user_marker if stopped else text


def _until_repeated_clause(reply: str) -> str:
    """The reply up to the first clause that occurred before; empty ones and delimiters may."""
    seen: set[str] = set()
    kept = []
    for clause in CLAUSES.split(reply):
        if clause in seen:
            break
        if clause and clause not in DELIMITERS:
            seen.add(clause)
        kept.append(clause)
    return "".join(kept).strip()
