"""Degenerate repetition: a model that says the same thing over and over.

Two measures over n-grams of words. *A loop* is a long unbroken run of words in which every n-gram
was already seen; it is found from left to right, so that what follows a loop can't undo it. *The
repeated share* is that of the n-grams which occurred before. Lines that differ in one word
share few n-grams of six words, so code and lists with similar lines pass both.
"""

import re

from writing_scripts import CJK

NGRAM = 6
MIN_NGRAMS = 12  # fewer say nothing about a share

# A list's own numbers and bullets don't make its lines different: they are skipped. Everything else
# is a word of at most 12 characters, a CJK character, an emoji, or some symbols in a row;
# endless words and rules ("hahaha", "-----") so become many equal words.
WORD = re.compile(
    rf"^[ \t]*(?:\d{{1,3}}[.)]|[-*•+])[ \t]+"
    rf"|([{CJK}]|[^\W{CJK}]{{1,12}}|[^\w\s\x00-\x7f\u2000-\u206f]|[^\w\s]{{3,8}})",
    re.MULTILINE,
)
CODE_FENCE = re.compile(r"^```.*?(?:^```|\Z)", re.MULTILINE | re.DOTALL)


def find_loop(text: str, loop_words: int) -> int | None:
    """Where the text begins to loop: the offset of its first repeated word, or None.

    A loop is `loop_words` words or more without a new n-gram. Decided by the text up to there
    alone: the loop of a beginning is the loop of every continuation.
    """
    words = _words(text)
    ngrams = _ngrams(words)
    needed = loop_words - NGRAM + 1
    if len(ngrams) - len(set(ngrams)) < needed:
        return None
    seen = set()
    run = 0
    for start, ngram in enumerate(ngrams):
        run = run + 1 if ngram in seen else 0
        if run >= needed:
            return _word_offset(text, start - run + 1)
        seen.add(ngram)
    return None


def repeated_share(text: str) -> float:
    """The share of n-grams outside code fences that occurred before, from 0 to 1."""
    if "```" in text:
        text = CODE_FENCE.sub("", text)
    ngrams = _ngrams(_words(text))
    if len(ngrams) < MIN_NGRAMS:
        return 0.0
    return 1 - len(set(ngrams)) / len(ngrams)


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text) if word]


def _ngrams(words: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[shift:] for shift in range(NGRAM)), strict=False))


def _word_offset(text: str, index: int) -> int:
    """Where the word with this index begins, or the number or bullet in front of it."""
    before = None
    for match in WORD.finditer(text):
        if match[1] is None:
            before = match.start()
            continue
        if index == 0:
            return match.start() if before is None else before
        index -= 1
        before = None
    raise AssertionError("no such word")
