"""Progress of long work: a bar with a rate and the time left."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20  # in a log file, where each state of the bar stays


def progress_bar(
    what: str, rows: Iterable[Any] | None = None, total: int | None = None, unit: str = "rows"
) -> tqdm:
    """A bar to iterate over, or (without `rows`) to update; nothing for work of under a second."""
    return tqdm(
        rows,
        desc=what,
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        delay=1,
        mininterval=0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
    )
