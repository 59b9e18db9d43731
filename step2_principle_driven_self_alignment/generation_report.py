"""What the user sees of a running generation: a progress bar or lines, a status, samples."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from base_model_check import EarlyCheck
from prompt_format import SELF_ALIGN
from response_filters import ResponseFilter
from shard_writer import ShardWriter
from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
FINISH_REASONS = ("stop", "eos", "length", "abandoned", "too_long")


class GenerationReport:
    """Counts the responses of one group in this launch, shows how far it is, and sums up."""

    def __init__(
        self,
        response_filter: ResponseFilter,
        writer: ShardWriter,
        answered_before: dict[str, str],
        assigned: int,
        *,
        samples: int,
        check: EarlyCheck,
    ) -> None:
        """`answered_before`: finish reasons of the share's answers by id, whoever wrote them;
        `assigned`: prompts of the share; `samples`: how many responses to log; `check`: of the
        base model."""
        self.finish_reasons: Counter[str] = Counter()
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.output_tokens = 0
        self.assigned = assigned
        self._before = Counter(answered_before.values())
        self._check = check
        self._filter = response_filter
        self._writer = writer
        self._samples_left = samples
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm | None = None
        self._engine: dict[str, Any] | None = None

    @contextmanager
    def running(self, *, bar: bool) -> Iterator[None]:
        """Runs the clock; shows a bar where stderr is a terminal and `bar` allows it."""
        self._started = self._last_line = time.monotonic()
        self._writer.show(self.status)
        logger.info("%d of %d prompts are left", self.assigned - self.answered, self.assigned)
        with tqdm(
            total=self.assigned,
            initial=self.answered,
            unit="prompt",
            dynamic_ncols=True,
            disable=not (bar and sys.stderr.isatty()),
        ) as self._bar:
            yield

    def add(self, record: dict[str, Any]) -> None:
        """Counts one response record, as it was written."""
        verdict = self._filter.judge(record)
        self.finish_reasons[record["finish_reason"]] += 1
        self.output_tokens += record["output_tokens"]
        if verdict.kept:
            self.kept += 1
        else:
            self.rejected[verdict.reason] += 1
        dialogue = self._filter.settings.dialogue
        if self._check.add(record, kept=verdict.kept, dialogue=dialogue):
            logger.info("base model, by the first prompts: %s", self._check.verdict)
        if self._samples_left > 0:
            self._samples_left -= 1
            self._show_sample(record, "kept" if verdict.kept else f"rejected: {verdict.reason}")
        self._show_progress()

    @property
    def answered(self) -> int:
        """Prompts of the share that have an answer."""
        return self._before.total() + self.finish_reasons.total()

    @property
    def finished(self) -> bool:
        """Whether every prompt of the share has an answer."""
        return self.answered == self.assigned

    @property
    def seconds(self) -> float:
        """Seconds since the first prompt could be answered."""
        return time.monotonic() - self._started

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of the finished responses of this launch, per second."""
        return self.output_tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest of the share takes at this launch's pace; None before a pace."""
        answered_now = self.finish_reasons.total()
        if not answered_now:
            return None
        return (self.assigned - self.answered) * self.seconds / answered_now

    def status(self) -> dict[str, Any]:
        """The shard's status: counts over the group's share, and this launch; times in seconds."""
        return {
            **share_counts(self._before + self.finish_reasons, self.assigned),
            "latest_launch": {
                "answered_before": self._before.total(),
                "prompts_answered": self.finish_reasons.total(),
                "finish_reasons": {name: self.finish_reasons[name] for name in FINISH_REASONS},
                "accepted": self.kept,
                "base_model": self._check.verdict,
                "rejected": dict(self.rejected.most_common()),
                "output_tokens": self.output_tokens,
                "seconds": round(self.seconds, 3),
                "tokens_per_second": round(self.tokens_per_second, 1),
                "seconds_left": self.seconds_left,
                "engine": self._engine,
            },
        }

    def finish(self, statistics: Any) -> None:
        """Logs the summary and leaves it in the status; `statistics` are the engine's."""
        self._engine = asdict(statistics)
        last = self.status()
        self._writer.show(lambda: last)
        reasons = ", ".join(f"{self.finish_reasons[name]} {name}" for name in FINISH_REASONS)
        logger.info(
            "%s: %d of %d prompts answered; in this launch %d (%s), of which %d accepted",
            "done" if self.finished else "stopped, start again to go on",
            *(self.answered, self.assigned, self.finish_reasons.total(), reasons, self.kept),
        )
        took = tqdm.format_interval(self.seconds)
        logger.info("%d tokens in %s, %s", self.output_tokens, took, self._rates())

    def _show_progress(self) -> None:
        self._bar.set_postfix_str(self._rates(), refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info(
                "%d of %d prompts, %s, %s left",
                *(self.answered, self.assigned, self._rates()),
                tqdm.format_interval(self.seconds_left),
            )

    def _rates(self) -> str:
        share = self.kept / max(self.finish_reasons.total(), 1)
        return f"{self.tokens_per_second:.0f} tokens/s, {share:.0%} accepted"

    def _show_sample(self, record: dict[str, Any], verdict: str) -> None:
        asked = SELF_ALIGN.own_part(record["instruction"], record["input"])
        logger.info(
            "sample %s, %s, %s\n%s%s%s",
            *(record["id"], record["finish_reason"], verdict),
            *(SELF_ALIGN.ends_with, asked, record["output"]),
        )


def share_counts(reasons: Counter[str], assigned: int) -> dict[str, Any]:
    """How much of a group's share of the prompts is answered, and how the answers ended."""
    return {
        "finished": reasons.total() == assigned,
        "prompts_assigned": assigned,
        "prompts_answered": reasons.total(),
        "finish_reasons": {name: reasons[name] for name in FINISH_REASONS},
    }
