"""A response's text, whole or begun, with all that the rules look at.

The base model continues "Watson (internal thoughts):". A good continuation is the thoughts, then
a "Watson:" turn, the reply, then a "User:" turn that shows where the reply ended. A further turn
of Watson's shows it just as well. A turn begins at the start of a line. The names are those of the
prompt's format.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from exemplar_blacklist import ExemplarBlacklist
from filter_settings import FilterSettings
from prompt_format import SELF_ALIGN, PromptFormat, joined_prompt
from repetition import find_loop
from unfinished_text import CJK, trim_unfinished

ENDS = ("stop", "eos")  # finish reasons of a response that ended by itself
SETTLED = re.compile(rf".*[\s{CJK}]", re.DOTALL)
LOOP_SEARCH_LENGTH = 1600  # a loop that leaves too short a start begins well before this


@dataclass(frozen=True)
class ResponseTurns:
    """The turns of one response; `reply` is None where there is no "Watson:" turn."""

    thoughts: str
    reply: str | None
    ended_by_turn: bool  # another turn follows the reply
    user_turn_first: bool  # a "User:" turn comes before the reply, or instead of it


def split_turns(text: str, dialogue: PromptFormat = SELF_ALIGN) -> ResponseTurns:
    """Takes the raw continuation of the dialogue's cue apart."""
    thoughts, reply_marker, after = text.partition(dialogue.reply_marker)
    before_user = thoughts.find(dialogue.end_marker)
    if before_user != -1:
        thoughts = thoughts[:before_user]
    if not reply_marker:
        return ResponseTurns(thoughts, None, False, before_user != -1)
    next_turn = dialogue.next_turn.search(after)
    reply = after[: next_turn.start()] if next_turn else after
    return ResponseTurns(thoughts, reply.strip(), next_turn is not None, before_user != -1)


class JudgedResponse:
    """A whole response; each part is computed when a rule asks for it."""

    def __init__(
        self,
        instruction: str,
        input_text: str,
        text: str,
        finish_reason: str | None,
        settings: FilterSettings,
        blacklist: ExemplarBlacklist,
    ) -> None:
        self.instruction = instruction
        self.input = input_text
        self.text = text
        self.finish_reason = finish_reason
        self.settings = settings
        self.blacklist = blacklist

    @cached_property
    def prompt(self) -> str:
        return joined_prompt(self.instruction, self.input)

    @property
    def opens_as_required(self) -> bool:
        return self.text.lstrip().startswith(self.settings.required_opening)

    @cached_property
    def turns(self) -> ResponseTurns:
        return split_turns(self.text, self.settings.dialogue)

    @cached_property
    def reply(self) -> str:
        """The reply as the model wrote it; "" if there is none."""
        return self.turns.reply or ""

    @cached_property
    def loop(self) -> int | None:
        """Where the reply begins to loop."""
        return find_loop(self.reply, self.settings.loop_words)

    @property
    def spoken(self) -> str:
        """Thoughts and reply: all that the assistant wrote before the next turn."""
        return f"{self.turns.thoughts}\n{self.reply}"

    @property
    def finished(self) -> bool:
        """Whether the reply really ended, and not by a limit or in a loop.

        Not sure where the prompt names the codename: a line "Watson:" may then belong to the reply,
        as in a scene with Holmes.
        """
        ended = self.turns.ended_by_turn or self.finish_reason in ENDS
        named = self.settings.dialogue.codename in self.prompt
        return ended and self.loop is None and not named

    @cached_property
    def clean_reply(self) -> str:
        """The reply as it may be kept: cut before a loop, without a trailing half sentence."""
        if self.finished:
            return self.reply
        return trim_unfinished(self.reply[: self.loop])


class BegunResponse(JudgedResponse):
    """The beginning of a response, seen such that what a rule finds in it can't change any more."""

    @property
    def opens_as_required(self) -> bool:
        opening = self.settings.required_opening
        begun = self.text.lstrip().rstrip("\ufffd")  # the last bytes may become a character yet
        return begun.startswith(opening[: len(begun)])

    @cached_property
    def reply(self) -> str:
        """The reply's whole words; the last one may go on, or become a turn marker."""
        begun = self.settings.dialogue.begun_turn.sub("", self.turns.reply or "")
        settled = SETTLED.match(begun)
        return settled[0] if settled else ""

    @cached_property
    def loop(self) -> int | None:
        head = SETTLED.match(self.reply[:LOOP_SEARCH_LENGTH])
        return find_loop(head[0], self.settings.loop_words) if head else None


@dataclass(frozen=True)
class Verdict:
    """What the filter decided about a response.

    `reason` is the name of the rule that drops it, or None if it is kept; `evidence` is what that
    rule found. `reply`, `instruction` and `input` are the texts to train on; `finished` tells
    whether the reply really ended.
    """

    reason: str | None
    evidence: str
    reply: str
    finished: bool
    instruction: str
    input: str

    @property
    def kept(self) -> bool:
        return self.reason is None
