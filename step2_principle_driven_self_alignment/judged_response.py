"""A response with what the rules look at, whole or begun."""

import re
from functools import cached_property

from exemplar_blacklist import ExemplarBlacklist
from filter_settings import FilterSettings
from repetition import find_loop
from response_turns import ResponseTurns, split_turns
from unfinished_text import trim_unfinished
from writing_scripts import CJK

ENDS = ("stop", "eos")  # finish reasons of a response that ended by itself
SETTLED = re.compile(rf".*[\s{CJK}]", re.DOTALL)
LOOP_SEARCH_LENGTH = 1600  # a loop that leaves too short a start begins well before this


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

    @property
    def prompt(self) -> str:
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def opens_as_required(self) -> bool:
        return self.text.lstrip().startswith(self.settings.required_opening)

    @cached_property
    def turns(self) -> ResponseTurns:
        return split_turns(self.text)

    @cached_property
    def reply(self) -> str:
        """The reply as the model wrote it; "" if there is none."""
        return self.turns.reply or ""

    @cached_property
    def loop(self) -> int | None:
        """Where the reply begins to loop."""
        return find_loop(self.reply, self.settings.loop_words)

    @property
    def finished(self) -> bool:
        """Whether the reply really ended, and not by a limit or in a loop."""
        ended = self.turns.ended_by_user_turn or self.finish_reason in ENDS
        return ended and self.loop is None

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
        settled = SETTLED.match(super().turns.reply or "")
        return settled[0] if settled else ""

    @cached_property
    def loop(self) -> int | None:
        head = SETTLED.match(self.reply[:LOOP_SEARCH_LENGTH])
        return find_loop(head[0], self.settings.loop_words) if head else None
