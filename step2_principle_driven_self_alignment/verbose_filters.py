"""Which long replies of Verbose Cloning are good enough to train on, and where they are cut."""

import re
from dataclasses import dataclass
from typing import Any

from prompt_format import PromptFormat, joined_prompt
from repetition import find_loop, repeated_share
from reply_language import find_other_script
from response_text import ENDS
from unfinished_text import trim_unfinished, weighted_length

ENGRAVED_TURN = re.compile(r"^[ \t]*### ?(?:User|Dromedary)\b", re.MULTILINE)
SEE_ALSO = re.compile(r"^[\W_]*(?:see also|further reading|external links)\b", re.I | re.M)
COPIED_WORDS = 8  # in a row, of the verbose prompt; fewer may stand in any reply
RULES = {
    "prompt_too_long": "the prompt left no room for a reply",
    "given_up": "the generator gave it up",
    "empty": "the reply is empty",
    "too_short": "the reply did not end by itself and is shorter than the limit",
    "persona": "the reply names the persona of the prompt",
    "see_also": "the reply has a heading of an encyclopaedia's page",
    "copied_example": "words of the prompt's example stand in the reply",
    "repetition": "more than the allowed share of the reply is repetition",
    "wrong_language": "prompt and reply are in different scripts, and none was asked for",
}


@dataclass(frozen=True)
class VerboseReply:
    """A long reply as it may be kept.

    `reason`: why it is dropped, or None. `cut`: where it was shortened, "loop", "list" or "limit",
    or "" where it stands as the model ended it. `finished`: whether it really ended.
    """

    reason: str | None
    text: str
    cut: str
    finished: bool


class VerboseFilter:
    """Judges the responses to one verbose prompt."""

    def __init__(
        self,
        verbose_prompt: str,
        dialogue: PromptFormat,
        *,
        min_length: int = 128,
        max_list_items: int = 12,
        loop_words: int = 80,
        max_repeated_share: float = 0.5,
    ) -> None:
        self.min_length = min_length
        self.max_list_items = max_list_items
        self.loop_words = loop_words
        self.max_repeated_share = max_repeated_share
        self._end_marker = dialogue.end_marker
        persona = re.search(r"\(([^()\n]+)\)\s*\Z", dialogue.cue)
        self._persona = persona[0].strip() if persona else None
        self._example = word_runs(verbose_prompt)

    def judge(self, record: dict[str, Any]) -> VerboseReply:
        """What may be kept of a response record, or why nothing."""
        text, cut, ended = self._shorten(record["output"], record.get("finish_reason"))
        text = text.strip() if ended else trim_unfinished(text.strip())
        prompt = joined_prompt(record["instruction"], record.get("input") or "")
        reason = self._reason(text, ended, record.get("finish_reason"), prompt)
        return VerboseReply(reason, text, cut, ended)

    def _shorten(self, text: str, finish_reason: str | None) -> tuple[str, str, bool]:
        """The text up to where it goes wrong, what went wrong there, and whether it ended."""
        turn = ENGRAVED_TURN.search(text)
        end = text.find(self._end_marker) if self._end_marker else -1
        places = [place for place in (end, turn.start() if turn else -1) if place >= 0]
        if places:
            text = text[: min(places)]
        ended = bool(places) or finish_reason in ENDS
        cut = "" if ended else "limit"
        item = re.search(rf"^[ \t]*{self.max_list_items + 1}[.)][ \t]", text, re.MULTILINE)
        if item:
            text, cut, ended = text[: item.start()], "list", False
        loop = find_loop(text, self.loop_words)
        if loop is not None:
            text, cut, ended = text[:loop], "loop", False
        return text, cut, ended

    def _reason(self, text: str, ended: bool, finish_reason: str | None, prompt: str) -> str | None:
        flat = " ".join(text.split())
        found = {
            "prompt_too_long": finish_reason == "too_long",
            "given_up": finish_reason == "abandoned",
            "empty": not text,
            "too_short": not ended and weighted_length(text) < self.min_length,
            "persona": self._persona is not None and self._persona.lower() in flat.lower(),
            "see_also": SEE_ALSO.search(text) is not None,
            "copied_example": not self._example.isdisjoint(word_runs(text)),
            "repetition": repeated_share(text) > self.max_repeated_share,
            "wrong_language": find_other_script(prompt, text) is not None,
        }
        return next((rule for rule in RULES if found[rule]), None)


def word_runs(text: str) -> set[tuple[str, ...]]:
    """All runs of COPIED_WORDS words of a text."""
    words = text.casefold().split()
    return set(zip(*(words[shift:] for shift in range(COPIED_WORDS)), strict=False))
