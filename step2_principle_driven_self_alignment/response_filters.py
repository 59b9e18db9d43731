"""Which responses are good enough to train on, and why the others are not.

RULES is the ordered table that decides; the first rule that catches a response names the reason.
The merge judges whole responses with it, and the generator gives up a response as soon as
no continuation can pass (`cannot_be_kept`), so both always agree.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from exemplar_blacklist import ExemplarBlacklist, load_blacklist
from published_rules import judge_published
from repetition import find_loop, repeated_share
from reply_language import answers_in_wrong_script
from response_turns import ResponseTurns, response_text, split_turns
from unfinished_text import trim_unfinished
from verdict import Verdict
from writing_scripts import CJK, weighted_length

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
ENDS = ("stop", "eos")  # finish reasons of a response that ended by itself
MIN_LENGTH_BEFORE_LOOP = 160  # a shorter start is not worth keeping
LOOP_SEARCH_LENGTH = 1600  # a loop that leaves too short a start is found within these characters
LEAKED_MARKER = re.compile(r"\((?:internal thoughts|auto reply)\)", re.IGNORECASE)
NAMED_PRINCIPLE = re.compile(r"\bprinciples? \d{1,2} \([a-z -]+\)", re.IGNORECASE)
SETTLED = re.compile(rf".*[\s{CJK}]", re.DOTALL)


@dataclass(frozen=True)
class FilterSettings:
    """The texts and thresholds that the rules use."""

    required_opening: str
    blacklist: ExemplarBlacklist = field(default_factory=lambda: ExemplarBlacklist({}))
    min_length: int = 160
    max_prompt_echo: int = 16
    loop_words: int = 80
    max_repeated_share: float = 0.5
    published_rules: bool = False

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Adds the flags that `from_arguments` reads."""
        group = parser.add_argument_group("filter rules")
        group.add_argument(
            "--required_opening_file",
            type=Path,
            default=PROMPTS / "required_opening.txt",
            help="the sentence that the thoughts must open with (default: %(default)s)",
        )
        group.add_argument(
            "--blacklist_file",
            type=Path,
            default=PROMPTS / "exemplar_blacklist.txt",
            help="phrases of the worked examples, one a line (default: %(default)s)",
        )
        group.add_argument(
            "--min_length",
            type=int,
            default=FilterSettings.min_length,
            help="characters of a reply; a CJK character counts as three (default: %(default)s)",
        )
        group.add_argument(
            "--max_prompt_echo",
            type=int,
            default=FilterSettings.max_prompt_echo,
            help="characters of an instruction or input that a reply may contain whole "
            "(default: %(default)s)",
        )
        group.add_argument(
            "--loop_words",
            type=int,
            default=FilterSettings.loop_words,
            help="words in a row without a new n-gram that make a loop (default: %(default)s)",
        )
        group.add_argument(
            "--max_repeated_share",
            type=float,
            default=FilterSettings.max_repeated_share,
            help="share of n-grams that may be repetitions, 0 to 1 (default: %(default)s)",
        )

    @classmethod
    def from_arguments(
        cls, args: argparse.Namespace, published_rules: bool = False
    ) -> "FilterSettings":
        """Reads the files and checks the values; ValueError or FileNotFoundError otherwise."""
        limits = {"min_length": 0, "max_prompt_echo": 0, "loop_words": 10, "max_repeated_share": 0}
        for name, limit in limits.items():
            if getattr(args, name) < limit:
                raise ValueError(f"--{name} is {getattr(args, name)}; give {limit} or more")
        return cls(
            required_opening=load_required_opening(args.required_opening_file),
            blacklist=load_blacklist(args.blacklist_file),
            published_rules=published_rules,
            **{name: getattr(args, name) for name in limits},
        )


def load_required_opening(path: str | Path) -> str:
    """The one line of the file; ValueError if there is none, or more than one."""
    lines = Path(path).read_text(encoding="utf-8").strip().splitlines()
    if len(lines) != 1:
        raise ValueError(f"{path} has {len(lines)} lines; it must hold one, the required opening")
    return lines[0].strip()


class JudgedResponse:
    """A response with what the rules look at; each part is computed when a rule asks for it."""

    def __init__(self, record: dict[str, Any], settings: FilterSettings) -> None:
        self.settings = settings
        self.instruction: str = record["instruction"]
        self.input: str = record.get("input") or ""
        self.finish_reason: str | None = record.get("finish_reason")
        self.text = response_text(record)

    @property
    def prompt(self) -> str:
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @cached_property
    def turns(self) -> ResponseTurns:
        return split_turns(self.text)

    @property
    def reply(self) -> str:
        """The reply as the model wrote it; "" if there is none."""
        return self.turns.reply or ""

    @cached_property
    def loop(self) -> int | None:
        """Where the reply begins to loop."""
        return find_loop(self.reply, self.settings.loop_words)

    @property
    def finished(self) -> bool:
        """Whether the reply really ended, by a marker of its own."""
        ended = self.turns.ended_by_user_turn or self.finish_reason in ENDS
        return ended and self.loop is None

    @cached_property
    def clean_reply(self) -> str:
        """The reply as it may be kept: cut before a loop, without a trailing half sentence."""
        if self.finished:
            return self.reply
        return trim_unfinished(self.reply[: self.loop]).rstrip()


def opens_otherwise(response: JudgedResponse) -> bool:
    return not response.text.lstrip().startswith(response.settings.required_opening)


def leaks_thoughts(response: JudgedResponse) -> bool:
    """Markers of the format after the opening, or in the reply a principle or the opening."""
    return find_leak(response.turns, response.prompt, response.settings) is not None


def find_leak(turns: ResponseTurns, prompt: str, settings: FilterSettings) -> str | None:
    """The first leaked marker, principle or opening that the user's prompt doesn't contain."""
    asked = prompt.casefold()
    marker = LEAKED_MARKER.search(turns.spoken)
    if marker and marker[0].casefold() not in asked:
        return marker[0]
    reply = turns.reply or ""
    if settings.required_opening in reply:
        return settings.required_opening
    principle = NAMED_PRINCIPLE.search(reply)
    return principle[0] if principle and "principle" not in asked else None


def echoes_prompt(response: JudgedResponse) -> bool:
    parts = (response.instruction, response.input)
    return find_echo(response.reply, parts, response.settings.max_prompt_echo) is not None


def find_echo(reply: str, prompt_parts: tuple[str, str], longest: int) -> str | None:
    """The part of the prompt that is longer than `longest` and stands in the reply whole."""
    flat_reply = " ".join(reply.split())
    for part in prompt_parts:
        flat_part = " ".join(part.split())
        if len(flat_part) > longest and flat_part in flat_reply:
            return flat_part
    return None


def copies_exemplar(response: JudgedResponse) -> bool:
    return response.settings.blacklist.find(response.reply, response.prompt) is not None


def repeats_itself(response: JudgedResponse) -> bool:
    if response.loop is not None and starts_too_short(response.clean_reply, response.settings):
        return True
    return repeated_share(response.clean_reply) > response.settings.max_repeated_share


def starts_too_short(start: str, settings: FilterSettings) -> bool:
    return weighted_length(start) < max(settings.min_length, MIN_LENGTH_BEFORE_LOOP)


@dataclass(frozen=True)
class Rule:
    """One reason to drop a response.

    `example` and `counterexample` are the shortest text that the rule catches and the nearest
    that it lets through, as changes to a good response record, with {opening} for the required
    sentence and {reply} for a good reply.
    """

    name: str
    meaning: str
    catches: Callable[[JudgedResponse], bool]
    example: dict[str, str]
    counterexample: dict[str, str]


GOOD = "{opening}\n\nWatson: {reply}"
LINE = "I like it very much here. "

RULES = (
    Rule(
        "prompt_too_long",
        "the prompt left no room for a response",
        lambda response: response.finish_reason == "too_long",
        {"output": "", "finish_reason": "too_long"},
        {"output": GOOD, "finish_reason": "stop"},
    ),
    Rule(
        "wrong_opening",
        "the thoughts do not open with the required sentence",
        opens_otherwise,
        {"output": " Well. " + GOOD},
        {"output": "\n" + GOOD},
    ),
    Rule(
        "no_reply",
        'there is no "Watson:" turn',
        lambda response: response.turns.reply is None,
        {"output": "{opening} Watson: {reply}"},
        {"output": "{opening}\nWatson: {reply}"},
    ),
    Rule(
        "user_turn_first",
        'a "User:" turn comes before the reply, which then answers somebody else',
        lambda response: response.turns.user_turn_first,
        {"output": "{opening}\nUser: Hi\n\nWatson: {reply}"},
        {"output": "{opening} User: Hi\n\nWatson: {reply}"},
    ),
    Rule(
        "leaked_thoughts",
        "markers of the format, named principles or the opening sentence stand in the reply",
        leaks_thoughts,
        {"output": GOOD + " (auto reply)"},
        {"output": GOOD + " (auto-reply)"},
    ),
    Rule(
        "prompt_echo",
        "the reply contains the user's instruction or input",
        echoes_prompt,
        {"instruction": "Is it 17 letters?", "output": GOOD + " Is it 17 letters?"},
        {"instruction": "Are these longer?", "output": GOOD + " Are these longer ?"},
    ),
    Rule(
        "exemplar_phrase",
        "a phrase of the worked examples, which the prompt does not mention, stands in the reply",
        copies_exemplar,
        {"instruction": "Weather?", "output": GOOD + " LISBON"},
        {"instruction": "Weather in Lisbon?", "output": GOOD + " Lisbon"},
    ),
    Rule(
        "repetition",
        "the reply says the same over and over, and what stands before that is too short to keep",
        repeats_itself,
        {"output": "{opening}\n\nWatson: " + LINE * 12},
        {"output": "{opening}\n\nWatson: {reply} " + LINE * 3},
    ),
    Rule(
        "empty",
        "the reply is empty",
        lambda response: not response.clean_reply,
        {"output": "{opening}\n\nWatson: \n\nUser:"},
        {"output": GOOD},
    ),
    Rule(
        "too_short",
        "the reply is shorter than the limit",
        lambda response: weighted_length(response.clean_reply) < response.settings.min_length,
        {"output": "{opening}\n\nWatson: Yes."},
        {"output": GOOD},
    ),
    Rule(
        "wrong_language",
        "prompt and reply are in different scripts, and no translation was asked for",
        lambda response: answers_in_wrong_script(response.prompt, response.clean_reply),
        {"instruction": "法国的首都在哪里？", "output": GOOD},
        {"instruction": "请用英语回答：法国的首都在哪里？", "output": GOOD},
    ),
    Rule(
        "given_up",
        "the generator gave it up by rules that are not this run's",
        lambda response: response.finish_reason == "abandoned",
        {"output": GOOD, "finish_reason": "abandoned"},
        {"output": GOOD, "finish_reason": "length"},
    ),
)


class ResponseFilter:
    """Judges responses by the rules; holds no state besides its settings."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings

    def judge(self, record: dict[str, Any]) -> Verdict:
        """Whether a response record is kept, or the name of the rule that drops it.

        Raises ValueError if the record has no text as `output`.
        """
        if self.settings.published_rules:
            return judge_published(
                record, self.settings.required_opening, self.settings.blacklist.phrases
            )
        response = JudgedResponse(record, self.settings)
        reason = self._reason(response)
        return Verdict(
            reason, response.clean_reply, response.finished, response.instruction, response.input
        )

    def _reason(self, response: JudgedResponse) -> str | None:
        if response.finish_reason == "abandoned":  # it stops in the middle; name what stopped it
            reason = self.cannot_be_kept(response.instruction, response.input, response.text)
            if reason is not None:
                return reason
        return next((rule.name for rule in RULES if rule.catches(response)), None)

    def cannot_be_kept(self, instruction: str, input_text: str, text_so_far: str) -> str | None:
        """The rule that drops every continuation of this text, or None while one may be kept.

        Exact: `judge` keeps no text that begins with one for which a name was returned. Under
        the published rules only the opening is looked at.
        """
        text = text_so_far.lstrip().rstrip("\ufffd")  # the last bytes may become a character
        opening = self.settings.required_opening
        if not text.startswith(opening[: len(text)]):
            return "wrong_opening"
        if self.settings.published_rules:
            return None
        turns = split_turns(text)
        if turns.user_turn_first:
            return "user_turn_first"
        prompt = f"{instruction}\n\n{input_text}" if input_text else instruction
        if find_leak(turns, prompt, self.settings):
            return "leaked_thoughts"
        settled = SETTLED.match(turns.reply or "")
        if settled is None:
            return None
        return self._settled_reason(settled[0], (instruction, input_text), prompt)

    def _settled_reason(self, reply: str, parts: tuple[str, str], prompt: str) -> str | None:
        """As `cannot_be_kept`, for the beginning of a reply that ends with a whole word."""
        if find_echo(reply, parts, self.settings.max_prompt_echo):
            return "prompt_echo"
        if self.settings.blacklist.find(reply, prompt):
            return "exemplar_phrase"
        start = SETTLED.match(reply[:LOOP_SEARCH_LENGTH])
        loop = find_loop(start[0], self.settings.loop_words) if start else None
        if loop is not None:
            kept = trim_unfinished(start[0][:loop]).rstrip()
            if starts_too_short(kept, self.settings):
                return "repetition"
        return None
