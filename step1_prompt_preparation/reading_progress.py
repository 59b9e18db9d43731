"""Progress of long work: a bar with a rate on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20
logger = logging.getLogger(__name__)


class ReadingProgress:
    """Counts rows as they are done; `total` gives the time left where it is known."""

    def __init__(self, what: str, total: int | None = None, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, desc=what, unit=f" {unit}", unit_scale=True, disable=not self.on_terminal
        )
        self.done = 0
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "ReadingProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if not self.on_terminal and error[0] is None and self.done:
            self._log("done")

    def add(self, rows: int = 1) -> None:
        """Notes that so many more rows are done."""
        self.done += rows
        self.bar.update(rows)
        now = time.monotonic()
        if not self.on_terminal and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            self._log("so far")

    def _log(self, state: str) -> None:
        rate = self.done / max(1e-9, time.monotonic() - self.started)
        logger.info(
            "%s: %s %s %s, %s a second",
            self.what,
            f"{self.done:,}",
            self.unit,
            state,
            f"{rate:,.0f}",
        )


def with_progress(rows: Iterable[Any], what: str) -> Iterator[Any]:
    """Yields the rows and shows how many have passed."""
    with ReadingProgress(what) as progress:
        for row in rows:
            yield row
            progress.add()
