"""Texts that ask for nothing: what stands first in a scraped conversation and is no prompt.

`KINDS` is the whole of it: one table, each kind with a text that it drops and the nearest that
stays. Only whole texts are judged, and only short ones but for notices.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from normalized_text import normalized

MOST_WORDS = 40  # more may be a text that the user wants to have worked on
POLITE = r"(?:please|pls|plz|ok|okay|yes|now|just|and|so|then|good|great|can you|could you|you can)"
WHERE_IT_STOPPED = r"(?:from )?(?:there|where you (?:left off|stopped))"
GO_ON = (
    r"cont[iu]+n[iu]*e?|keep going|go on|go ahead|carry on|proceed|resume|more|next|finish(?: it)?",
    r"next (?:part|one|page|step|chapter)|(?:give|tell|show) me more|keep writing",
    rf"(?:continue|keep|go on) (?:writing|typing|talking|with the (?:code|rest)|{WHERE_IT_STOPPED}"
    r"|(?:the|your) (?:answer|list|code|response|text))",
    r"continue (?:to|with|from|at) (?:step|part|point|number|item|chapter|line|section|page) \w+",
    r"continue what you were.*",
    r"continua|continúa|sigue|siga|continuez|weiter|mach weiter|prosegui|devam(?: et)?|lanjutkan",
    r"tiếp tục|продолжай|продолжи|дальше|계속(?:해(?:줘)?)?|继 ?续(?: ?写)?|続 ?け ?て|続 ?き",
)
CONTINUATION = re.compile(rf"(?:{POLITE} )*(?:{'|'.join(GO_ON)})(?: (?:please|pls|on|it|now))*")
STOPPED_ANSWER = re.compile(
    r"(?i)(?:the|your) (?:answers?|response|reply|output|message)\b.{0,40}"
    r"\b(?:stopped|cut off|got cut|incomplete|unfinished)\b.{0,120}"
)
REACTION_WORDS = (
    "yes yeah yep yup no nope ok okay k sure thanks thank thx ty great good nice cool perfect "
    "correct right wrong wow lol haha hahaha awesome excellent amazing done test testing "
    "retry regenerate got see hmm bravo gracias merci danke obrigado 好 谢"
)
LINKING_WORDS = "you it i well so much very too that s thats is a lot again 的"
REACTIONS = frozenset(REACTION_WORDS.split())
LINKS = frozenset(LINKING_WORDS.split())
KEYBOARD = re.compile(  # no vowel, one letter again and again, or letters that lie side by side
    r"[b-df-hj-np-tv-xz]{5,}|(.)\1{3,}|\w*(?:asdf|sdfg|dfgh|fghj|ghjk|hjkl|lkjh|fdsa|qwert|zxcv)\w*"
    r"|(?:qwe|wer|ert|rty|zxc|xcv|cvb|vbn|asd|sdf|dfg|fgh|ghj|hjk|jkl){2,}[a-z]?"
)
RECKONING = re.compile(r"\d\s*[-+*/×÷^=%]\s*\d")
ASSISTANT = re.compile(
    r"As an AI(?: language)? model,? I\b|I(?:'m| am) (?:very )?sorry,? but (?:I|as an AI)\b"
    r"|I apologi[sz]e for (?:the|any)\b|You(?:'re| are) welcome[!.]"
    r"|(?:Sure|Certainly|Of course)[!,.]? (?:[Hh]ere(?:'s| is| are)|I(?:'d| would| can|'ll))\b"
    r"|Hello!? How (?:can|may) I (?:help|assist) you|Is there anything else I can help you"
    r"|(?:Hi|Hello)(?: there)?! (?:I'm|I am) (?:ChatGPT|an AI)"
)
NOTICE = re.compile(
    r"This is a copy of a (?:shared )?(?:conversation|chat)|Report content\s*\Z"
    r"|This conversation (?:was|has been) shared|See this conversation on |This shared link"
    r"|(?:This )?[Ss]hared (?:conversation|chat|via|with|from|by) ?(?:Chat ?GPT|ShareGPT|https?:)"
    r"|This (?:shared )?(?:chat|conversation) (?:may|might|could) contain"
    r"|Page not found|Attention Required!"
)


@dataclass(frozen=True)
class NonPrompt:
    """`matches` tells such a text: `example` is one, `counter_example` the nearest that is none."""

    reason: str
    matches: Callable[[str], bool]
    example: str
    counter_example: str


def non_prompt_reason(text: str) -> str | None:
    """Which kind of non-prompt the whole text is; None for a prompt."""
    for kind in KINDS:
        if kind.matches(text):
            return kind.reason
    return None


def _is_short(text: str, words: int = MOST_WORDS) -> bool:
    return len(text) < 12 * words and len(text.split()) <= words


def _asks_to_go_on(text: str) -> bool:
    if not _is_short(text, 24):
        return False
    return bool(CONTINUATION.fullmatch(normalized(text)) or STOPPED_ANSWER.match(text))


def _is_reaction(text: str) -> bool:
    if not _is_short(text, 6):
        return False
    words = normalized(text).split()
    return not REACTIONS.isdisjoint(words) and (REACTIONS | LINKS).issuperset(words)


def _is_noise(text: str) -> bool:
    if not _is_short(text, 3):
        return False
    letters = "".join(filter(str.isalpha, text))
    if not letters:
        return not RECKONING.search(text)
    words = text.strip("!?. ").split()
    return all(map(KEYBOARD.fullmatch, words))


def _is_assistants(text: str) -> bool:
    return bool(ASSISTANT.match(text)) and _is_short(text)


def _is_notice(text: str) -> bool:
    return bool(NOTICE.match(text)) and _is_short(text)


KINDS = (
    NonPrompt("continuation", _asks_to_go_on, "Please keep going.", "Continue the story of Anansi"),
    NonPrompt("reaction", _is_reaction, "Great, thank you!", "Is it right to say thank you?"),
    NonPrompt("keyboard_noise", _is_noise, "asdfgh", "HTTPS"),
    NonPrompt(
        "assistant_text",
        _is_assistants,
        "Sure! Here is a haiku about fog.",
        "Sure, but what is a haiku about fog?",
    ),
    NonPrompt(
        "page_notice",
        _is_notice,
        "This is a copy of a conversation between ChatGPT & Anonymous.\nReport content",
        "This is a copy of a poem. Who wrote it?",
    ),
)
