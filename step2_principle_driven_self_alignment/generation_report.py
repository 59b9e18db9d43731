"""What the user sees of a running generation: a progress bar or lines, a summary, samples."""

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from assembled_prompt import USER_TURN, own_part
from durations import format_seconds
from response_filters import ResponseFilter
from response_shards import ShardWriter, summary_path
from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
FINISH_REASONS = ("stop", "eos", "length", "abandoned", "too_long")


class GenerationReport:
    """Counts the responses of one group in this launch and shows how far it is."""

    def __init__(
        self, response_filter: ResponseFilter, writer: ShardWriter, left: int, *, samples: int
    ) -> None:
        """`left`: prompts that this launch has to answer; `samples`: how many to log."""
        self.finish_reasons: Counter[str] = Counter()
        self.kept = 0
        self.rejected: Counter[str] = Counter()
        self.output_tokens = 0
        self.answered_before = len(writer.finish_reasons)
        self.assigned = self.answered_before + left  # rows of the shard when its group is done
        self._filter = response_filter
        self._writer = writer
        self._samples_left = samples
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm | None = None

    @contextmanager
    def running(self, *, bar: bool) -> Iterator[None]:
        """Runs the clock; shows a bar where stderr is a terminal and `bar` allows it."""
        self._started = self._last_line = time.monotonic()
        self._writer.status = self.status
        logger.info(
            "%d of %d prompts are left", self.assigned - self.answered_before, self.assigned
        )
        with tqdm(
            total=self.assigned,
            initial=self.answered_before,
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
        if self._samples_left > 0:
            self._samples_left -= 1
            self._show_sample(record, "kept" if verdict.kept else f"rejected: {verdict.reason}")
        self._show_progress()

    @property
    def answered(self) -> int:
        """Responses of this launch."""
        return self.finish_reasons.total()

    @property
    def seconds(self) -> float:
        """Seconds since the first prompt could be answered."""
        return time.monotonic() - self._started

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of the finished responses of this launch, per second."""
        return self.output_tokens / max(self.seconds, 1e-9)

    def status(self) -> dict[str, Any]:
        """What the lock file tells other processes."""
        return {
            "assigned": self.assigned,
            "answered": self.answered,
            "output_tokens": self.output_tokens,
            "seconds": round(self.seconds, 1),
        }

    def _show_progress(self) -> None:
        self._bar.set_postfix_str(self._rates(), refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            done = self.answered_before + self.answered
            left = (self.assigned - done) * self.seconds / self.answered
            logger.info(
                "%d of %d prompts, %s, %s left",
                *(done, self.assigned, self._rates(), format_seconds(left)),
            )

    def _rates(self) -> str:
        share = self.kept / max(self.answered, 1)
        return f"{self.tokens_per_second:.0f} tokens/s, {share:.0%} accepted"

    def _show_sample(self, record: dict[str, Any], verdict: str) -> None:
        logger.info(
            "sample %s, %s, %s\n%s%s%s",
            *(record["id"], record["finish_reason"], verdict),
            *(USER_TURN, own_part(record["instruction"], record["input"]), record["output"]),
        )

    @property
    def finished(self) -> bool:
        """Whether the shard answers every prompt of its group."""
        return self.answered_before + self.answered == self.assigned

    def finish(self, statistics: Any) -> None:
        """Logs the summary and writes it beside the shard; `statistics` are the engine's."""
        reasons = ", ".join(f"{self.finish_reasons[name]} {name}" for name in FINISH_REASONS)
        logger.info(
            "%s: %d of %d prompts answered; in this launch %d (%s), of which %d accepted",
            "done" if self.finished else "stopped, start again to go on",
            *(self.answered_before + self.answered, self.assigned),
            *(self.answered, reasons, self.kept),
        )
        took = format_seconds(self.seconds)
        logger.info("%d tokens in %s, %s", self.output_tokens, took, self._rates())
        launch = {
            "prompts_answered": self.answered,
            "finish_reasons": {name: self.finish_reasons[name] for name in FINISH_REASONS},
            "accepted": self.kept,
            "rejected": dict(self.rejected.most_common()),
            "output_tokens": self.output_tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "engine": asdict(statistics),
        }
        write_summary(self._writer, self.assigned, launch)


def complete_summary(writer: ShardWriter) -> None:
    """Sees to it that a complete shard has a summary that says so.

    There is none yet if the launch that answered the last prompt was killed right after.
    """
    path = summary_path(writer.path)
    if not path.exists() or not json.loads(path.read_text(encoding="utf-8"))["finished"]:
        write_summary(writer, len(writer.finish_reasons), None)


def write_summary(writer: ShardWriter, assigned: int, launch: dict[str, Any] | None) -> None:
    """Writes the summary of a shard and its latest launch (times in seconds) and renames it."""
    path, answered = summary_path(writer.path), len(writer.finish_reasons)
    reasons = Counter(writer.finish_reasons.values())
    summary = {
        "finished": answered == assigned,
        "prompts_assigned": assigned,
        "prompts_answered": answered,
        "finish_reasons": {name: reasons[name] for name in FINISH_REASONS},
        "latest_launch": launch,
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)
