"""A response's text, taken apart into its turns.

The base model continues "Watson (internal thoughts):". A good continuation is the thoughts, then
a "Watson:" turn, the reply, then a "User:" turn that shows where the reply ended. A turn begins
at the start of a line.
"""

from dataclasses import dataclass
from typing import Any

CODENAME = "Watson"
REPLY_MARKER = f"\n{CODENAME}:"
USER_MARKER = "\nUser:"


@dataclass(frozen=True)
class ResponseTurns:
    """The turns of one response; `reply` is None where there is no "Watson:" turn."""

    thoughts: str
    reply: str | None
    ended_by_user_turn: bool
    user_turn_first: bool  # a "User:" turn comes before the reply, or instead of it

    @property
    def spoken(self) -> str:
        """Thoughts and reply: all that the assistant wrote before the user's next turn."""
        return self.thoughts if self.reply is None else f"{self.thoughts}\n{self.reply}"


def split_turns(text: str) -> ResponseTurns:
    """Takes the raw continuation of the cue "Watson (internal thoughts):" apart."""
    thoughts, reply_marker, after = text.partition(REPLY_MARKER)
    before_user = thoughts.find(USER_MARKER)
    if before_user != -1:
        thoughts = thoughts[:before_user]
    if not reply_marker:
        return ResponseTurns(thoughts, None, False, before_user != -1)
    reply, user_marker, _ = after.partition(USER_MARKER)
    return ResponseTurns(thoughts, reply.strip(), bool(user_marker), before_user != -1)


def response_text(record: dict[str, Any]) -> str:
    """The raw text of a response record; older files keep it as `{"generation": text}`.

    Raises ValueError if there is none.
    """
    output = record.get("output")
    if isinstance(output, dict):
        output = output.get("generation")
    if not isinstance(output, str):
        raise ValueError('`output` is neither a text nor {"generation": text}')
    return output
