"""What a merge counts and shows: outcomes, lengths, principles, and seeded examples of each."""

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from base_model_check import MeasuredResponse, fits
from response_text import Verdict
from training_file import seeded_key

KEPT = "kept"
KEPT_EXAMPLES = 12
DROPPED_EXAMPLES = 3  # of each rule
LENGTH_BIN = 100  # characters
SHOWN_CHARACTERS = 4000  # of a text in an example


@dataclass
class FilterStatistics:
    """Counts over judged responses. Those of parts add up, in any order, to those of the whole."""

    outcomes: Counter[str] = field(default_factory=Counter)  # "kept" or the name of a rule
    by_source: Counter[tuple[str, str]] = field(default_factory=Counter)  # source, outcome
    finish_reasons: Counter[str] = field(default_factory=Counter)
    finished: int = 0  # kept ones that really ended
    raw_lengths: Counter[int] = field(default_factory=Counter)  # bins of LENGTH_BIN characters
    reply_lengths: Counter[int] = field(default_factory=Counter)  # of kept replies
    raw_characters: int = 0
    reply_characters: int = 0
    principles: Counter[str] = field(default_factory=Counter)  # kept ones whose thoughts name it
    misnamed: Counter[str] = field(default_factory=Counter)  # number and name that don't fit
    measured: list[MeasuredResponse] = field(default_factory=list)
    examples: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)

    def count(self, record: dict[str, Any], verdict: Verdict, seed: int) -> None:
        """Adds one judged response."""
        outcome = verdict.reason or KEPT
        self.outcomes[outcome] += 1
        self.by_source[source_of(record), outcome] += 1
        self.finish_reasons[record.get("finish_reason") or "not recorded"] += 1
        self.raw_lengths[len(record["output"]) // LENGTH_BIN] += 1
        self.raw_characters += len(record["output"])
        if verdict.kept:
            self._count_kept(verdict)
        key = seeded_key(seed, f"example {record['id']}")
        if self._is_drawn(outcome, key):
            self._add_example(outcome, key, example(record, verdict))

    def _count_kept(self, verdict: Verdict) -> None:
        self.finished += verdict.finished
        self.reply_lengths[len(verdict.reply) // LENGTH_BIN] += 1
        self.reply_characters += len(verdict.reply)

    def count_principles(self, named: frozenset[tuple[int, str]], names: dict[int, str]) -> None:
        """Adds the principles that a kept response names; `names`: those of the prompt."""
        for principle in named:
            counter = self.principles if fits(principle, names) else self.misnamed
            counter["{} ({})".format(*principle)] += 1

    def merge(self, other: "FilterStatistics") -> None:
        """Adds the counts and examples of another part."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
            elif isinstance(value, Counter):
                getattr(self, name).update(value)
        self.measured += other.measured
        for outcome, examples in other.examples.items():
            for key, shown in examples:
                self._add_example(outcome, key, shown)

    def _is_drawn(self, outcome: str, key: int) -> bool:
        drawn = self.examples.get(outcome, ())
        return len(drawn) < _wanted(outcome) or key < drawn[-1][0]

    def _add_example(self, outcome: str, key: int, shown: dict[str, Any]) -> None:
        drawn = self.examples.setdefault(outcome, [])
        insort(drawn, (key, shown), key=lambda item: item[0])
        del drawn[_wanted(outcome) :]

    @property
    def judged(self) -> int:
        return self.outcomes.total()

    @property
    def kept(self) -> int:
        return self.outcomes[KEPT]


def source_of(record: dict[str, Any]) -> str:
    """The record's source, or `unknown`."""
    return str(record.get("source") or "unknown")


def example(record: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """What a report shows of a judged response."""
    return {
        "id": record["id"],
        "source": source_of(record),
        "instruction": _shortened(verdict.instruction),
        "input": _shortened(verdict.input),
        "response": _shortened(record["output"]),
        "finish_reason": record.get("finish_reason"),
        "reply": _shortened(verdict.reply),
        "finished": verdict.finished,
        "evidence": _shortened(verdict.evidence),
    }


def _shortened(text: str) -> str:
    rest = len(text) - SHOWN_CHARACTERS
    return text if rest <= 0 else f"{text[:SHOWN_CHARACTERS]} … ({rest} more characters)"


def _wanted(outcome: str) -> int:
    return KEPT_EXAMPLES if outcome == KEPT else DROPPED_EXAMPLES
