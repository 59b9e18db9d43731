"""Degenerate repetition: a model that says the same thing over and over.

Two measures over n-grams of words. *A loop* is a long unbroken run of words in which every n-gram
was already seen; it is found from left to right, so that what follows a loop can't undo it. *The
repeated share* is that of the n-grams which occurred before. Lines that differ in one word
share few n-grams of six words, so code and lists with similar lines pass both.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from unfinished_text import CJK

NGRAM = 6
MIN_NGRAMS = 12  # fewer say nothing about a share

# A list's own numbers and bullets don't make its lines different: they are left out. A word has at
# most 12 characters; a CJK character, an emoji and some symbols in a row are words too. Endless
# words and rules ("hahaha", "-----") so become many equal words.
ENUMERATOR = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-*•+])[ \t]+", re.MULTILINE)
ASCII_WORD = re.compile(r"\w{1,12}|[^\w\s]{3,8}")  # the same on ASCII texts, and faster
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]{{1,12}}|[^\w\s\x00-\x7f\u2000-\u206f]|[^\w\s]{{3,8}}")
CODE_FENCE = re.compile(r"^```.*?(?:^```|\Z)", re.MULTILINE | re.DOTALL)


def find_loop(text: str, loop_words: int) -> int | None:
    """Where the text begins to loop: the offset of its first repeated word, or None.

    A loop is `loop_words` words or more without a new n-gram. Decided by the text up to there
    alone: the loop of a beginning is the loop of every continuation.
    """
    ngrams, distinct = _count_ngrams(text)
    needed = loop_words - NGRAM + 1
    if ngrams - distinct < needed:
        return None
    seen = set()
    run = 0
    for start, ngram in enumerate(_ngrams(_words(text))):
        run = run + 1 if ngram in seen else 0
        if run >= needed:
            return _word_offset(text, start - run + 1)
        seen.add(ngram)
    return None


def repeated_share(text: str) -> float:
    """The share of n-grams outside code fences that occurred before, from 0 to 1."""
    if "```" in text:
        text = CODE_FENCE.sub("", text)
    ngrams, distinct = _count_ngrams(text)
    return 1 - distinct / ngrams if ngrams >= MIN_NGRAMS else 0.0


@lru_cache(maxsize=4)  # both measures are mostly taken of one and the same text
def _count_ngrams(text: str) -> tuple[int, int]:
    """The number of n-grams and of distinct ones."""
    words = _words(text)
    return max(len(words) - NGRAM + 1, 0), len(set(_ngrams(words)))


def _words(text: str) -> list[str]:
    text = ENUMERATOR.sub("", text)
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return [word.lower() for word in WORD.findall(text)]


def _ngrams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[shift:] for shift in range(NGRAM)), strict=False)


def _word_offset(text: str, index: int) -> int:
    """Where the word with this index begins, or the number or bullet in front of it."""
    enumerators = {match.end(): match.start() for match in ENUMERATOR.finditer(text)}
    inside = {place for end, start in enumerators.items() for place in range(start, end)}
    for match in WORD.finditer(text):
        if match.start() in inside:
            continue
        if index == 0:
            return enumerators.get(match.start(), match.start())
        index -= 1
    raise AssertionError("no such word")
