"""The prompts on their way into one file: cleaned, measured, without duplicates and leaks."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from decontamination import BenchmarkQuestions
from deduplication import find_near_duplicates
from normalized_text import normalized_key
from prompt_collections import CandidatePrompt
from prompt_output import PromptOutput
from prompt_records import full_prompt, is_valid_unicode, prompt_record
from reading_progress import progress_bar
from text_cleaning import clean_prompt
from token_lengths import TokenCounter

PROMPTS_PER_BATCH = 4096
MOST_CHARACTERS = 100_000  # more is not cleaned, but dropped at once


@dataclass(frozen=True)
class LengthLimits:
    """How many tokens a prompt may have."""

    least: int
    most: int


class PromptPool:
    """Takes candidates in, gives the records out; what goes is dropped with a reason."""

    def __init__(self, counter: TokenCounter, limits: LengthLimits, output: PromptOutput) -> None:
        self.counter = counter
        self.limits = limits
        self.output = output
        self.records: list[dict[str, Any]] = []
        self.lengths: dict[str, int] = {}  # id -> tokens

    def add(self, candidates: Iterable[CandidatePrompt]) -> None:
        """Cleans and measures candidates, and takes in those of a fitting length."""
        cleaned = filter(None, map(self._cleaned, candidates))
        while batch := list(islice(cleaned, PROMPTS_PER_BATCH)):
            texts = [full_prompt(record) for record in batch]
            lengths = self.counter.count(texts, self.limits.most)
            for record, length in zip(batch, lengths, strict=True):
                if length < self.limits.least:
                    self._drop(record, "too_short")
                elif length > self.limits.most:
                    self._drop(record, "too_long")
                else:
                    self.records.append(record)
                    self.lengths[record["id"]] = length

    def drop_duplicates(self) -> None:
        """Keeps one of the prompts that differ in case, whitespace or punctuation alone."""
        first: dict[bytes, dict[str, Any]] = {}
        for record in self._in_fixed_order():
            kept = first.setdefault(normalized_key(full_prompt(record)), record)
            if kept is not record:
                self._drop(record, "duplicate", of=kept["id"])
        self.records = list(first.values())

    def drop_leaks(self, questions: BenchmarkQuestions) -> None:
        """Drops the prompts that give a benchmark's question away."""
        kept = []
        for record in progress_bar("decontamination", self._in_fixed_order(), unit="prompts"):
            leak = questions.find(full_prompt(record))
            if leak:
                self._drop(record, "benchmark_question", benchmark=leak[0], shared=leak[1])
            else:
                kept.append(record)
        self.records = kept

    def drop_near_duplicates(self, threshold: float) -> None:
        """Keeps one of each cluster of prompts that share most of their word 5-shingles."""
        records = self._in_fixed_order()
        stands_for = find_near_duplicates([full_prompt(record) for record in records], threshold)
        for dropped, kept in stands_for.items():
            self._drop(records[dropped], "near_duplicate", of=records[kept]["id"])
        self.records = [r for number, r in enumerate(records) if number not in stands_for]

    def _cleaned(self, candidate: CandidatePrompt) -> dict[str, Any] | None:
        self.output.report.read[candidate.source] += 1
        reason = candidate.reason or _text_reason(candidate)
        if reason:
            self.output.drop(candidate.source, reason, candidate.instruction)
            return None
        cleaned = self.output.report.cleaned
        instruction = clean_prompt(candidate.instruction, cleaned)
        input_text = clean_prompt(candidate.input, cleaned)
        if not instruction:
            self.output.drop(candidate.source, "empty", candidate.instruction)
            return None
        return prompt_record(instruction, candidate.source, input_text, candidate.extra)

    def _drop(self, record: dict[str, Any], reason: str, **details: object) -> None:
        self.output.drop(record["source"], reason, full_prompt(record), id=record["id"], **details)

    def _in_fixed_order(self) -> list[dict[str, Any]]:
        """By id, then source: the same whatever file a prompt came from."""
        return sorted(self.records, key=lambda r: (r["id"], r["source"], repr(r)))


def _text_reason(candidate: CandidatePrompt) -> str | None:
    texts = (candidate.instruction, candidate.input)
    if not all(isinstance(text, str) for text in texts):
        return "no_text"
    if not candidate.instruction.strip():
        return "empty"
    if sum(map(len, texts)) > MOST_CHARACTERS:
        return "too_long"
    return None if all(map(is_valid_unicode, texts)) else "invalid_unicode"
