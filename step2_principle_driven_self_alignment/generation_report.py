"""What the user sees of a running generation: a progress bar or lines, a status, samples."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from base_model_check import EarlyCheck
from prompt_format import PromptFormat
from response_filters import ResponseFilter
from shard_writer import ShardWriter
from tqdm import tqdm

if TYPE_CHECKING:
    from engine.generation import EngineStatistics

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
ENOUGH_TO_TELL = 100  # responses after which none accepted is no chance
FINISH_REASONS = ("stop", "eos", "length", "abandoned", "too_long")


class GenerationReport:
    """Counts the responses of one group in this launch, shows how far it is, and sums up."""

    def __init__(
        self,
        response_filter: ResponseFilter | None,
        dialogue: PromptFormat,
        writer: ShardWriter,
        answered_before: dict[str, str],
        assigned: int,
        *,
        statistics: "EngineStatistics",
        slots: int,
        samples: int,
        check: EarlyCheck,
    ) -> None:
        """`response_filter`: None where no rules judge the responses; `answered_before`: finish
        reasons of the share's answers by id, whoever wrote them; `assigned`: prompts of the share;
        `statistics`: the engine's, as they grow; `slots`: how many prompts it answers at a time;
        `samples`: how many responses to log; `check`: of the base model."""
        # With all keys from the beginning: another thread reads it while it counts.
        self.finish_reasons: Counter[str] = Counter(dict.fromkeys(FINISH_REASONS, 0))
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.output_tokens = 0
        self.assigned = assigned
        self._before = Counter(answered_before.values())
        self._check = check
        self._filter = response_filter
        self._dialogue = dialogue
        self._writer = writer
        self._statistics = statistics
        self._slots = slots
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
        reason = self._filter.judge(record).reason if self._filter else None
        self.finish_reasons[record["finish_reason"]] += 1
        self.output_tokens += record["output_tokens"]
        if reason is None:
            self.kept += 1
        else:
            self.rejected[reason] += 1
        if self._filter and self._check.add(record, kept=reason is None, dialogue=self._dialogue):
            logger.info("base model, by the first prompts: %s", self._check.verdict)
        if self._samples_left > 0:
            self._samples_left -= 1
            self._show_sample(record, "kept" if reason is None else f"rejected: {reason}")
        if self.finish_reasons.total() == ENOUGH_TO_TELL:
            self._warn_if_all_are_rejected()
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
        """Output tokens of this launch per second, those of responses under way included."""
        return self._statistics.output_tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest of the share takes at this launch's pace; None before a pace.

        A response is taken to be as long as the mean of those that are finished and those under
        way, where one under way is at least as long as it is and as a finished one.
        """
        finished, rate = self.finish_reasons.total(), self.tokens_per_second
        if not finished or not rate:
            return None
        left = self.assigned - self.answered
        live = min(self._slots, left)
        drawn = (self._statistics.output_tokens - self.output_tokens) / max(live, 1)
        finished_mean = self.output_tokens / finished
        length = (self.output_tokens + live * max(drawn, finished_mean)) / (finished + live)
        return ((left - live) * length + live * max(length - drawn, 0)) / rate

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

    def finish(self) -> None:
        """Logs the summary and leaves it in the status."""
        self._engine = asdict(self._statistics)
        last = self.status()
        self._writer.show(lambda: last)
        reasons = ", ".join(f"{self.finish_reasons[name]} {name}" for name in FINISH_REASONS)
        logger.info(
            "%s: %d of %d prompts answered; in this launch %d (%s)%s",
            "done" if self.finished else "stopped, start again to go on",
            *(self.answered, self.assigned, self.finish_reasons.total(), reasons),
            f", of which {self.kept} accepted" if self._filter else "",
        )
        if self.finish_reasons.total() < ENOUGH_TO_TELL:
            self._warn_if_all_are_rejected()
        took = tqdm.format_interval(self.seconds)
        logger.info("%d tokens in %s, %s", self._statistics.output_tokens, took, self._rates())

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
        rate = f"{self.tokens_per_second:.0f} tokens/s"
        if self._filter is None:
            return rate
        return f"{rate}, {self.kept / max(self.finish_reasons.total(), 1):.0%} accepted"

    def _warn_if_all_are_rejected(self) -> None:
        if self.kept == 0 and self.finish_reasons.total():
            logger.warning(
                "NOT ONE of %d responses is accepted; the merge would drop all of them (%s). Look "
                "at some with --show 5: does the base model follow --prompt_file, and do "
                "--required_opening_file and --blacklist_file fit it?",
                self.finish_reasons.total(),
                ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common(3)),
            )

    def _show_sample(self, record: dict[str, Any], verdict: str) -> None:
        asked = self._dialogue.own_part(record["instruction"], record["input"])
        logger.info(
            "sample %s, %s, %s\n%s%s%s",
            *(record["id"], record["finish_reason"], verdict),
            *(self._dialogue.ends_with, asked, record["output"]),
        )


def share_counts(reasons: Counter[str], assigned: int) -> dict[str, Any]:
    """How much of a group's share of the prompts is answered, and how the answers ended."""
    return {
        "finished": reasons.total() == assigned,
        "prompts_assigned": assigned,
        "prompts_answered": reasons.total(),
        "finish_reasons": {name: reasons[name] for name in FINISH_REASONS},
    }
