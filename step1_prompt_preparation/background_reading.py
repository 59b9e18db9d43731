"""Reading ahead in a second thread, while the first one works on what was read."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

BATCHES_AHEAD = 2
_END = object()


def read_ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches in order; an error in reading is raised here."""
    ready: queue.Queue = queue.Queue(BATCHES_AHEAD)
    stopped = threading.Event()

    def read() -> None:
        last = _END
        try:
            for batch in batches:
                if not _put(ready, batch, stopped):
                    return
        except BaseException as error:
            last = error
        _put(ready, last, stopped)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (batch := ready.get()) is not _END:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stopped.set()


def _put(ready: queue.Queue, batch: Any, stopped: threading.Event) -> bool:
    """Waits for room; False if nobody reads any more."""
    while not stopped.is_set():
        try:
            ready.put(batch, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False
