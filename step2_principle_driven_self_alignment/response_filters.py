"""Which responses are good enough to train on, and why the others are not.

RULES is the ordered table that decides; the first rule that catches a response names the reason.
The merge judges whole responses with it, and the generator gives up a response as soon as
no continuation can pass (`cannot_be_kept`), so both always agree. What the rules look at is in
response_text.py.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from dummy_conversations import follows_a_name
from exemplar_blacklist import ExemplarBlacklist
from filter_settings import FilterSettings
from prompt_format import joined_prompt
from published_rules import judge_published
from repetition import repeated_share
from reply_language import find_other_script
from response_text import BegunResponse, JudgedResponse, Verdict
from unfinished_text import weighted_length

MIN_LENGTH_BEFORE_LOOP = 160  # a shorter start is not worth keeping
AUTO_REPLY = "(auto reply)"  # how the assistant of a worked conversation takes its leave
ENGRAVED_SPEAKER = "User|Dromedary"  # opens a turn behind "###" where step 3 engraves
NAMED_PRINCIPLE = re.compile(r"\b[Pp]rinciples? \d{1,2} \([a-z -]+\)")


@dataclass(frozen=True)
class Rule:
    """One reason to drop a response.

    `evidence` returns what it found, or None if the response passes. `example` and `counterexample`
    are the shortest text that the rule catches and the nearest that it lets through, as
    changes to a good response record, with {opening} for the required sentence and {reply} for a
    good reply. `early`: what the rule finds in a begun response, no continuation can undo.
    """

    name: str
    meaning: str
    evidence: Callable[[JudgedResponse], str | None]
    example: dict[str, str]
    counterexample: dict[str, str]
    early: bool = False


def find_finish_reason(finish_reason: str) -> Callable[[JudgedResponse], str | None]:
    """A predicate for responses that ended for this reason."""
    evidence = f"finish_reason is {finish_reason}"
    return lambda response: evidence if response.finish_reason == finish_reason else None


def find_other_opening(response: JudgedResponse) -> str | None:
    return None if response.opens_as_required else f"it opens with {response.text[:60]!r}"


def find_missing_reply(response: JudgedResponse) -> str | None:
    marker = response.settings.dialogue.reply_marker.strip()
    return f'no line begins with "{marker}"' if response.turns.reply is None else None


def find_user_turn(response: JudgedResponse) -> str | None:
    marker = response.settings.dialogue.end_marker.strip()
    return f'"{marker}" before the reply' if response.turns.user_turn_first else None


def find_leak(response: JudgedResponse) -> str | None:
    """A marker after the opening, or the opening or a principle in the reply.

    Those that the user's own prompt speaks of may stand there.
    """
    asked = response.prompt.casefold()
    marker = _aside(response.settings.dialogue.cue).search(response.spoken)
    if marker and marker[0].casefold() not in asked:
        return marker[0]
    if response.settings.required_opening in response.reply:
        return response.settings.required_opening
    if "rinciple" not in response.reply or "principle" in asked:  # spares most the slower search
        return None
    principle = NAMED_PRINCIPLE.search(response.reply)
    return principle[0] if principle else None


@cache
def _aside(cue: str) -> re.Pattern[str]:
    """What stands in parentheses behind the codename: in the cue, and in an automatic reply."""
    asides = [AUTO_REPLY, *re.findall(r"\([^()\n]+\)", cue)]
    return re.compile("|".join(map(re.escape, asides)), re.IGNORECASE)


def find_turn_marker(response: JudgedResponse) -> str | None:
    """A turn of either dialogue, the prompt's or the engraved one, in the reply, however written.

    Where a marker stands as it should, the reply ended before it. What is left are the user's turn
    inside a line, and the codename as a speaker, unless it is part of a name ("Emma Watson:").
    """
    dialogue, reply = response.settings.dialogue, response.reply
    user = dialogue.end_marker.strip().removesuffix(":")
    if user in reply:  # spares most replies the slower searches
        marker = _user_turn(user).search(reply)
        if marker:
            return marker[0]
    if dialogue.codename.lower() not in reply.lower() and "###" not in reply:
        return None
    for marker in _codename_turn(dialogue.codename).finditer(reply):
        if "(" in marker[0] or not follows_a_name(reply, marker.start()):
            return marker[0]
    return None


@cache
def _user_turn(user: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(user)}[*_]{{0,2}} ?[:：]")


@cache
def _codename_turn(codename: str) -> re.Pattern[str]:
    codename = re.escape(codename)
    name = rf"(?<!\w){codename}(?:['’]s \w+)?[*_\"”»]{{0,3}} ?"
    aside = r"\((?:[^()\n]|\([^()\n]*\))*\)"
    beside = rf"\([^()\n]*[:：]|(?:{aside}[*_]{{0,2}} ?)?[:：]"
    heading = rf"### ?(?:{ENGRAVED_SPEAKER}|{codename})\b"
    return re.compile(rf"{name}(?:{beside})|{heading}", re.IGNORECASE)


def find_echo(response: JudgedResponse) -> str | None:
    """An instruction or input longer than the limit that the reply contains whole."""
    flat_reply = " ".join(response.reply.split())
    for part in (response.instruction, response.input):
        flat_part = " ".join(part.split())
        if len(flat_part) > response.settings.max_prompt_echo and flat_part in flat_reply:
            return flat_part
    return None


def find_exemplar_phrase(response: JudgedResponse) -> str | None:
    return response.blacklist.find(response.reply, response.prompt)


def find_early_loop(response: JudgedResponse) -> str | None:
    """A loop that leaves too short a start; after a longer start it is only cut off."""
    if response.loop is None:
        return None
    length = weighted_length(response.clean_reply)
    enough = length >= max(response.settings.min_length, MIN_LENGTH_BEFORE_LOOP)
    return None if enough else f"a loop after {length} characters"


def find_repetition(response: JudgedResponse) -> str | None:
    share = repeated_share(response.clean_reply)
    limit = response.settings.max_repeated_share
    return f"{share:.0%} of the n-grams occurred before" if share > limit else None


def find_emptiness(response: JudgedResponse) -> str | None:
    return None if response.clean_reply else "nothing to keep"


def find_shortness(response: JudgedResponse) -> str | None:
    length = weighted_length(response.clean_reply)
    limit = response.settings.min_length
    return f"{length} characters, the limit is {limit}" if length < limit else None


def find_other_language(response: JudgedResponse) -> str | None:
    return find_other_script(response.prompt, response.clean_reply)


GOOD = "{opening}\n\nWatson: {reply}"
LOOPED = "I like it very much here. "

RULES = (
    Rule(
        "prompt_too_long",
        "the prompt left no room for a response",
        find_finish_reason("too_long"),
        {"output": "", "finish_reason": "too_long"},
        {"output": GOOD, "finish_reason": "stop"},
    ),
    Rule(
        "wrong_opening",
        "the thoughts do not open with the required sentence",
        find_other_opening,
        {"output": " Well. " + GOOD},
        {"output": "\n" + GOOD},
        early=True,
    ),
    Rule(
        "no_reply",
        'there is no "Watson:" turn',
        find_missing_reply,
        {"output": "{opening} Watson: {reply}"},
        {"output": "{opening}\nWatson: {reply}"},
    ),
    Rule(
        "user_turn_first",
        'a "User:" turn comes before the reply, which then answers somebody else',
        find_user_turn,
        {"output": "{opening}\nUser: Hi\n\nWatson: {reply}"},
        {"output": "{opening} User: Hi\n\nWatson: {reply}"},
        early=True,
    ),
    Rule(
        "leaked_thoughts",
        "markers of the format, named principles or the opening sentence stand in the reply",
        find_leak,
        {"output": GOOD + " (auto reply)"},
        {"output": GOOD + " (auto-reply)"},
        early=True,
    ),
    Rule(
        "turn_marker",
        "a turn of the dialogue, or the codename as a speaker, stands in the reply",
        find_turn_marker,
        {"output": GOOD + " Watson: Yes."},
        {"output": GOOD + " Emma Watson: an actress."},
        early=True,
    ),
    Rule(
        "prompt_echo",
        "the reply contains the user's instruction or input",
        find_echo,
        {"instruction": "Is it 17 letters?", "output": GOOD + " Is it 17 letters?"},
        {"instruction": "Are these longer?", "output": GOOD + " Are these longer ?"},
        early=True,
    ),
    Rule(
        "exemplar_phrase",
        "a phrase of the worked examples, which the prompt does not mention, stands in the reply",
        find_exemplar_phrase,
        {"instruction": "Weather?", "output": GOOD + " LISBON"},
        {"instruction": "Weather in Lisbon?", "output": GOOD + " Lisbon"},
        early=True,
    ),
    Rule(
        "loop",
        "the reply loops, and what stands before the loop is too short to keep",
        find_early_loop,
        {"output": "{opening}\n\nWatson: " + LOOPED * 15},
        {"output": GOOD + " " + LOOPED * 15},
        early=True,
    ),
    Rule(
        "repetition",
        "more than the allowed share of the reply is repetition",
        find_repetition,
        {"output": "{opening}\n\nWatson: " + LOOPED * 7},
        {"output": GOOD + " " + LOOPED * 7},
    ),
    Rule(
        "empty",
        "the reply is empty",
        find_emptiness,
        {"output": "{opening}\n\nWatson: \n\nUser:"},
        {"output": GOOD},
    ),
    Rule(
        "too_short",
        "the reply is shorter than the limit",
        find_shortness,
        {"output": "{opening}\n\nWatson: Yes."},
        {"output": GOOD},
    ),
    Rule(
        "wrong_language",
        "prompt and reply are in different scripts, and no translation was asked for",
        find_other_language,
        {"instruction": "法国的首都在哪里？", "output": GOOD},
        {"instruction": "请用英语回答：法国的首都在哪里？", "output": GOOD},
    ),
    Rule(
        "given_up",
        "the generator gave it up by rules that are not this run's",
        find_finish_reason("abandoned"),
        {"output": GOOD, "finish_reason": "abandoned"},
        {"output": GOOD, "finish_reason": "length"},
    ),
)


class ResponseFilter:
    """Judges responses by the rules; holds no state besides its settings."""

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self._blacklist = ExemplarBlacklist(settings.blacklist)

    def judge(self, record: dict[str, Any]) -> Verdict:
        """Whether a response record is kept, or the name of the rule that drops it."""
        if self.settings.published_rules:
            return judge_published(record, self.settings)
        response = self._whole(record)
        reason, evidence = self._reason(response)
        return Verdict(
            reason=reason,
            evidence=evidence,
            reply=response.clean_reply,
            finished=response.finished,
            instruction=response.instruction,
            input=response.input,
        )

    def explain(self, record: dict[str, Any]) -> str:
        """A response's path through the rules, and what is left of it, in words."""
        verdict = self.judge(record)
        lines = [
            f"id {record['id']}, source {record.get('source') or 'unknown'}, "
            f"finish reason {record.get('finish_reason') or 'not recorded'}",
            *_quoted("prompt", joined_prompt(record["instruction"], record["input"])),
            *_quoted("response", record["output"]),
            "",
        ]
        if not self.settings.published_rules:
            lines += ["rules, in order:", *self._rule_lines(record), ""]
        if not verdict.kept:
            return "\n".join([*lines, f"dropped: {verdict.reason}"])
        lines.append(f"kept, {'finished' if verdict.finished else 'unfinished'}")
        lines += _quoted("reply, before the codename is replaced", verdict.reply)
        return "\n".join(lines)

    def _rule_lines(self, record: dict[str, Any]) -> Iterator[str]:
        response = self._whole(record)
        for number, rule in enumerate(RULES, start=1):
            evidence = rule.evidence(response)
            outcome = "passes" if evidence is None else f"catches: {evidence}"
            yield f"  {number:2} {rule.name:16} {outcome}"

    def _whole(self, record: dict[str, Any]) -> JudgedResponse:
        return JudgedResponse(
            record["instruction"],
            record.get("input") or "",
            record["output"],
            record.get("finish_reason"),
            self.settings,
            self._blacklist,
        )

    def _reason(self, response: JudgedResponse) -> tuple[str | None, str]:
        if response.finish_reason == "abandoned":  # it stops in the middle: say what stopped it
            begun = self._begun(response.instruction, response.input, response.text)
            reason, evidence = _first_catch((rule for rule in RULES if rule.early), begun)
            if reason is not None:
                return reason, evidence
        return _first_catch(RULES, response)

    def cannot_be_kept(self, instruction: str, input_text: str, text_so_far: str) -> str | None:
        """The rule that drops every continuation of this text, or None while one may be kept.

        Exact: `judge` keeps no text that begins with one for which a name was returned. Under
        the published rules only the opening is looked at.
        """
        begun = self._begun(instruction, input_text, text_so_far)
        if self.settings.published_rules:
            return None if begun.opens_as_required else "wrong_opening"
        return _first_catch((rule for rule in RULES if rule.early), begun)[0]

    def _begun(self, instruction: str, input_text: str, text: str) -> BegunResponse:
        return BegunResponse(instruction, input_text, text, None, self.settings, self._blacklist)


def _first_catch(
    rules: Iterable[Rule], response: JudgedResponse
) -> tuple[str, str] | tuple[None, str]:
    """Name and evidence of the first rule that catches the response, or (None, "")."""
    for rule in rules:
        evidence = rule.evidence(response)
        if evidence is not None:
            return rule.name, evidence
    return None, ""


def _quoted(title: str, text: str) -> list[str]:
    return ["", f"{title}:", *(f"  | {line}" for line in text.split("\n"))]
