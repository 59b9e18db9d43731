"""What becomes of each line that a model wrote: the rules for topics and for prompts.

A rule names what is wrong with an item, or None. Each has a text that it catches and the nearest
that it lets through; the tests hold every rule to both.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MOST_TOPIC_WORDS = 3
PROMPT_WORDS = (4, 150)  # as in Self-Instruct (arXiv 2212.10560) and the method's first version
SMALL_WORDS = {
    "a",
    "an",
    "and",
    "at",
    "by",
    "for",
    "from",
    "in",
    "of",
    "on",
    "or",
    "the",
    "to",
    "with",
}
# What a model that reads and writes text can't serve
NOT_TEXT = re.compile(
    r"\b(?:images?|pictures?|graphs?|diagrams?|flowcharts?|maps?|plot|draw|files?|videos?|audio|"
    r"music|go to)\b",
    re.IGNORECASE,
)
ITEM = re.compile(r"\s*(\d{1,4})\.\s+(\S.*?)\s*")
TOPIC_CHARACTERS = re.compile(r"[^\W_][\w'’&. -]*")


@dataclass(frozen=True)
class Rule:
    """`catches` tells whether an item is to be dropped."""

    name: str
    meaning: str
    catches: Callable[[str], bool]
    caught: str
    passed: str


def _words(text: str) -> list[str]:
    return text.split()


def _is_name(topic: str) -> bool:
    """Whether no word but small ones between others begins with a small letter."""
    first, *others = topic.split()
    return not first[0].islower() and not any(
        word[0].islower() and word not in SMALL_WORDS for word in others
    )


TOPIC_RULES = (
    Rule(
        "characters",
        "something else than a name: letters, digits, blanks and - ' & .",
        lambda text: TOPIC_CHARACTERS.fullmatch(text) is None,
        "Tides (oceans)",
        "D'Arcy & Sons",
    ),
    Rule(
        "too_many_words",
        f"more than {MOST_TOPIC_WORDS} words",
        lambda text: len(_words(text)) > MOST_TOPIC_WORDS,
        "Rivers of Northern Europe",
        "Rivers of Europe",
    ),
    Rule(
        "not_a_name",
        "a word without a capital",
        lambda text: not _is_name(text),
        "Birds that sing",
        "Songs of Birds",
    ),
)
PROMPT_RULES = (
    Rule(
        "too_few_words",
        f"fewer than {PROMPT_WORDS[0]} words",
        lambda text: len(_words(text)) < PROMPT_WORDS[0] and text.isascii(),
        "What is rain?",
        "What is acid rain?",
    ),
    Rule(
        "too_many_words",
        f"more than {PROMPT_WORDS[1]} words",
        lambda text: len(_words(text)) > PROMPT_WORDS[1],
        "Why " + "very " * 148 + "high tides?",
        "Why " + "very " * 147 + "high tides?",
    ),
    Rule(
        "not_text",
        "it needs more than reading and writing",
        lambda text: NOT_TEXT.search(text) is not None,
        "Draw a house with a red roof.",
        "Describe a drawer full of old letters.",
    ),
    Rule(
        "leading_mark",
        "it opens with a punctuation mark",
        lambda text: not (text[0].isalnum() or text[0] in "\"'“‘«¿¡("),
        "- Name three rivers of Asia.",
        '"Still waters run deep": what is meant?',
    ),
    Rule(
        "placeholder",
        "a gap that nobody filled",
        lambda text: re.search(r"\[[^\]]*\]|<[^>]*>|_{3,}|\.\.\.\.", text) is not None,
        "Write to [name] about the rent.",
        "Write to Mr. North about the rent.",
    ),
)


def broken_rule(rules: tuple[Rule, ...], text: str) -> str | None:
    """The name of the first rule that catches the text."""
    return next((rule.name for rule in rules if rule.catches(text)), None)


def numbered_items(text: str, first: int, finished: bool) -> Iterator[tuple[int, str, str | None]]:
    """Yields (number, item, reason against it) of a numbered list whose first number was given.

    The list ends where a line is no item of the next number. The last line of a response that did
    not end by itself may be cut off: reason `cut`.
    """
    lines = [line for line in f"{first}. {text.lstrip()}".split("\n") if line.strip()]
    for place, line in enumerate(lines):
        match = ITEM.fullmatch(line)
        if match is None or int(match[1]) != first + place:
            yield first + place, line.strip(), "wrong_number"
            return
        cut = not finished and place == len(lines) - 1
        yield first + place, match[2], "cut" if cut else None
