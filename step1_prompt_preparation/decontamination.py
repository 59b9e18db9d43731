"""Benchmark questions, and whether a prompt gives one away."""

from collections.abc import Iterable
from typing import Any

from command_line import InputError
from normalized_text import plain_words
from prompt_sources import PromptSource, read_rows

SHARED_WORDS = 13  # as in Brown et al. 2020 (arXiv 2005.14165), appendix C
LEAST_CONTAINED_WORDS = 3  # shorter questions must be the whole prompt: "Who?" is in too many
QUESTION_FIELDS = ("question", "Question", "text", "turns", "prompt", "instruction")


class BenchmarkQuestions:
    """Knows for a text which benchmark it shares 13 words in a row, or a whole question, with."""

    def __init__(self) -> None:
        self.grams: dict[tuple[str, ...], str] = {}  # words in a row -> name of the benchmark
        self.gram_lengths: list[int] = []
        self.tiny_questions: dict[tuple[str, ...], str] = {}

    def __bool__(self) -> bool:
        return bool(self.grams or self.tiny_questions)

    @classmethod
    def from_sources(cls, sources: Iterable[PromptSource]) -> "BenchmarkQuestions":
        """Reads the question fields of files or Hub data sets.

        Raises:
            InputError: a source has no question at all.
        """
        questions = cls()
        for source in sources:
            texts = [
                text
                for _, row in read_rows(source, every_split=True)
                for text in question_texts(row)
            ]
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
        tokens = plain_words(question)
        if 0 < len(tokens) < LEAST_CONTAINED_WORDS:
            self.tiny_questions.setdefault(tuple(tokens), benchmark)
            return
        length = min(len(tokens), SHARED_WORDS)
        for gram in _grams(tokens, length):
            self.grams.setdefault(gram, benchmark)
        if length and length not in self.gram_lengths:
            self.gram_lengths.append(length)

    def find(self, text: str) -> tuple[str, str] | None:
        """(benchmark, shared words) if the text gives a question away."""
        tokens = plain_words(text)
        if benchmark := self.tiny_questions.get(tuple(tokens)):
            return benchmark, " ".join(tokens)
        for length in sorted(self.gram_lengths, reverse=True):
            for gram in _grams(tokens, length):
                if benchmark := self.grams.get(gram):
                    return benchmark, " ".join(gram)
        return None


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


def _grams(tokens: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(length)), strict=False) if length else ()
