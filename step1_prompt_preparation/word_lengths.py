"""Token counts put together from the counts of words, which repeat: ten times faster than texts."""

import re
from collections.abc import Callable, Iterable, Sequence

BatchLengths = Callable[[Sequence[str]], list[int]]
SPACE = "\u2581"  # how SentencePiece writes a space
# where one word ends and the next begins; runs of spaces stay inside a chunk
WORD_BOUNDARY = re.compile(r"(?<=[^ \u2581]) (?=[^ \u2581])")
PIECE_ACROSS_WORDS = re.compile(r"[^\u2581]\u2581")
LONGEST_REMEMBERED = 40  # characters
MOST_REMEMBERED = 300_000  # words; about 40 MB


def pieces_stay_within_words(vocabulary: Iterable[str]) -> bool:
    """Whether no piece of the vocabulary reaches from one word into the next.

    Then the words of a text are tokenised independently of each other, with byte-pair merges as
    with unigrams, and their counts add up.
    """
    return not any(PIECE_ACROSS_WORDS.search(piece) for piece in vocabulary)


class WordwiseLengths:
    """Counts texts by their words. Needs a SentencePiece model that puts "▁" before each text."""

    def __init__(self, batch_lengths: BatchLengths) -> None:
        self._batch_lengths = batch_lengths
        self._known: dict[str, int] = {}
        self._long_words: list[str] = []

    def count(self, texts: Sequence[str], limit: int) -> list[int]:
        """The token count of each text; `limit + 1` for one of more words than `limit`."""
        split = [_words(text) for text in texts]
        split = [words if len(words) <= limit else None for words in split]
        if len(self._known) > MOST_REMEMBERED:
            self._known.clear()
        self._learn({word for words in split if words for word in words})
        known = self._known
        lengths = [
            limit + 1 if words is None else sum([known[word] for word in words]) for words in split
        ]
        self._forget_long_words()
        return lengths

    def _learn(self, words: set[str]) -> None:
        unknown = sorted(words - self._known.keys())
        if unknown:
            self._known.update(zip(unknown, self._batch_lengths(unknown), strict=True))
            self._long_words = [word for word in unknown if len(word) > LONGEST_REMEMBERED]

    def _forget_long_words(self) -> None:
        for word in self._long_words:
            del self._known[word]
        self._long_words = []


def _words(text: str) -> list[str]:
    if "  " in text or SPACE in text or text.startswith(" ") or text.endswith(" "):
        return WORD_BOUNDARY.split(text)
    return text.split(" ")  # the same, and faster
