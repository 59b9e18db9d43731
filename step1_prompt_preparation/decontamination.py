"""Benchmark questions, and whether a prompt gives one away.

A prompt does if it shares 13 words in a row with a question (Brown et al. 2020, arXiv 2005.14165,
appendix C), holds a shorter one whole, or holds a long one with a word changed, added or misspelt.
A question of everyday words ("What do you do?") counts only as the whole prompt.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from command_line import InputError
from content_words import WEIGHTLESS
from normalized_text import plain_words
from prompt_sources import PromptSource, read_rows

SHARED_WORDS = 13
LEAST_WEIGHTY = 2  # words of weight in a question that a longer prompt may give away
LEAST_WEIGHTY_CHANGED = 5  # in one that is known again with one of them changed
WORDS_BETWEEN = 4  # that a changed question may have more
LEAST_SHARED = 0.7  # of all its words, the little ones too
QUESTION_FIELDS = (
    *("question", "Question", "text", "turns", "prompt", "instruction"),
    *("input", "query", "problem"),
)


@dataclass(frozen=True)
class LongQuestion:
    """A question that is known again although a word of it was changed."""

    words: Counter[str]
    weighty: Counter[str]
    names: frozenset[str]  # names and numbers: with another one it is another question
    benchmark: str

    @property
    def room(self) -> int:
        """How many words of a text it may be spread over."""
        return self.words.total() + WORDS_BETWEEN

    @property
    def changes(self) -> int:
        """How many words of weight may be missing."""
        return 1 if self.weighty.total() < 2 * LEAST_WEIGHTY_CHANGED else 2

    def is_in(self, window: list[str]) -> bool:
        """Whether a part of a text says it, but for a word or two."""
        found = Counter(window)
        missing = self.weighty - found
        return (
            missing.total() <= self.changes
            and self.names.isdisjoint(missing)
            and (self.words & found).total() >= LEAST_SHARED * self.words.total()
        )


class BenchmarkQuestions:
    """Knows for a text which benchmark it gives away a question of."""

    def __init__(self) -> None:
        self.grams: dict[tuple[str, ...], str] = {}  # words in a row -> name of the benchmark
        self.gram_lengths: list[int] = []
        self.everyday: dict[tuple[str, ...], str] = {}
        self.long: list[LongQuestion] = []
        self._rarest: dict[str, list[LongQuestion]] | None = None  # word -> questions to look at

    def __bool__(self) -> bool:
        return bool(self.grams or self.everyday)

    @classmethod
    def from_sources(cls, sources: Iterable[PromptSource]) -> "BenchmarkQuestions":
        """Reads the question fields of files or Hub data sets.

        Raises:
            InputError: a source has no question at all.
        """
        questions = cls()
        for source in sources:
            rows = read_rows(source, every_split=True)
            texts = [text for _, row in rows for text in question_texts(row)]
            if not texts:
                raise InputError(
                    f"{source.name}: no question found; {source.flag} reads the fields "
                    + ", ".join(QUESTION_FIELDS)
                )
            for text in texts:
                questions.add(text, source.name)
        return questions

    def add(self, question: str, benchmark: str) -> None:
        """Adds one question of a benchmark."""
        words = plain_words(question)
        weighty = [word for word in words if word not in WEIGHTLESS]
        if len(weighty) < LEAST_WEIGHTY:
            if words:
                self.everyday.setdefault(tuple(words), benchmark)
            return
        length = min(len(words), SHARED_WORDS)
        for gram in _grams(words, length):
            self.grams.setdefault(gram, benchmark)
        if length not in self.gram_lengths:
            self.gram_lengths.append(length)
        if len(weighty) >= LEAST_WEIGHTY_CHANGED:
            names = _names(question)
            self.long.append(LongQuestion(Counter(words), Counter(weighty), names, benchmark))
            self._rarest = None

    def find(self, text: str) -> tuple[str, str] | None:
        """(benchmark, shared words) if the text gives a question away."""
        words = plain_words(text)
        if benchmark := self.everyday.get(tuple(words)):
            return benchmark, " ".join(words)
        for length in sorted(self.gram_lengths, reverse=True):
            for gram in _grams(words, length):
                if benchmark := self.grams.get(gram):
                    return benchmark, " ".join(gram)
        return self._find_changed(words)

    def _find_changed(self, words: list[str]) -> tuple[str, str] | None:
        rarest = self._index()
        looked_at = set()
        for position, word in enumerate(words):
            for question in rarest.get(word, ()):
                # the word may be anywhere in the question, so look at what lies around it
                for start in range(max(0, position - question.room + 1), position + 1):
                    if (id(question), start) in looked_at or words[start] not in question.words:
                        continue
                    looked_at.add((id(question), start))
                    window = words[start : start + question.room]
                    if question.is_in(window):
                        return question.benchmark, " ".join(window)
        return None

    def _index(self) -> dict[str, list[LongQuestion]]:
        """Each long question under so many of its rarest words that one of them must be there."""
        if self._rarest is None:
            frequency: Counter[str] = Counter()
            for question in self.long:
                frequency.update(question.weighty.keys())
            self._rarest = defaultdict(list)
            for question in self.long:
                by_rarity = sorted(question.weighty, key=lambda word: (frequency[word], word))
                for word in by_rarity[: question.changes + 1]:
                    self._rarest[word].append(question)
        return self._rarest


def question_texts(row: Any) -> list[str]:
    """The questions of one benchmark row: its question field, or every turn of it."""
    if not isinstance(row, dict):
        return []
    for field in QUESTION_FIELDS:
        value = row.get(field)
        texts = value if isinstance(value, list) else [value]
        texts = [text for text in texts if isinstance(text, str) and text.strip()]
        if texts:
            return texts
    return []


def _names(question: str) -> frozenset[str]:
    """Numbers, and words that are capitalised inside a sentence, in lower case."""
    names: set[str] = set()
    before = "."
    for word in question.split():
        inside = before[-1] not in '.!?:"“('
        if word[0].isdigit() or (inside and word[0].isupper() and word not in ("I", "I'm")):
            names.update(plain_words(word))
        before = word
    return frozenset(names)


def _grams(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(length)), strict=False) if length else ()
