"""The one writer of a shard, and the status that it shows to others.

`SHARD.status.json` holds `state` (`loading`, `answering` or `ended`), who writes, and what
`generation_report.py` counts. It serves the progress table, and tells a launch that another one
still answers the same prompts. That spares double work and is needed for nothing else: every
launch has a file of its own, and of two answers to a prompt readers take one.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from response_shards import ShardName, encode_row, find_shards, parse_shard_name, status_path
from user_error import TryAgainError

logger = logging.getLogger(__name__)

STATES = ("loading", "answering", "ended")
STATUS_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # an older status, from another machine, is a dead launch's
LOCK_SECONDS = 10.0


class ShardWriter:
    """The one process that appends to a shard; a context manager.

    Entering makes the shard, under the first name that is free, unless another living launch
    answers the same prompts (TryAgainError). A shard that got no response is removed in the end.
    """

    def __init__(self, run: Path, group_size: int, group_rank: int) -> None:
        self.name = ShardName(run, group_size, group_rank, 0)
        self._rows = 0
        self._file = -1
        self._state = "loading"
        self._counts: Callable[[], dict[str, Any]] = dict
        self._launch = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
            "slurm_restart_count": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        }
        self._writing_status = threading.Lock()
        self._leaving = threading.Event()
        self._reporter = threading.Thread(target=self._report, daemon=True)

    @property
    def path(self) -> Path:
        """The shard; its launch number is known once it is entered."""
        return self.name.path

    def __enter__(self) -> "ShardWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.path.parent):
            self._refuse_living_launches()
            self._create()
        self._reporter.start()
        return self

    def show(self, counts: Callable[[], dict[str, Any]], state: str = "answering") -> None:
        """From now on, the status holds what `counts()` returns."""
        self._counts, self._state = counts, state
        self._write_status()

    def append(self, record: dict[str, Any]) -> None:
        """Adds one response; when this returns, a kill of the process can't lose it."""
        line = encode_row(record)
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            error.filename = str(self.path)
            raise
        self._rows += 1

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        self._reporter.join()
        self._state = "ended"
        if self._rows:
            self._write_status()
            os.fsync(self._file)
        else:
            self.path.unlink(missing_ok=True)
            status_path(self.path).unlink(missing_ok=True)
        os.close(self._file)

    def _refuse_living_launches(self) -> None:
        """Raises TryAgainError if a living launch answers prompts of this group."""
        for shard in find_shards(self.name.run):
            other, status = parse_shard_name(shard), read_status(shard)
            if other.group_size == self.name.group_size and other[2] != self.name.group_rank:
                continue
            if is_living(shard) and not self._is_restart_of(status):
                raise TryAgainError(
                    f"{shard} is being written by {describe_launch(status)}, which answers the "
                    "same prompts. Wait for it, or end it and start again"
                )

    def _is_restart_of(self, status: dict[str, Any]) -> bool:
        """Whether Slurm has started our job again, so that the other launch is as good as dead."""
        job, restart = self._launch["slurm_job_id"], self._launch["slurm_restart_count"]
        return (
            job != ""
            and job == status.get("slurm_job_id")
            and status.get("slurm_restart_count", 0) < restart
        )

    def _create(self) -> None:
        for launch in count():
            self.name = self.name._replace(launch=launch)
            with suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
                self._file = os.open(self.path, flags, 0o666)
                break
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._write_status()

    def _write_status(self) -> None:
        with self._writing_status:
            status = {"state": self._state, "finished": False, **self._counts(), **self._launch}
            try:
                write_status(self.path, status)
            except OSError as error:
                logger.warning("%s: can't write the status: %s", status_path(self.path), error)

    def _report(self) -> None:
        while not self._leaving.wait(STATUS_SECONDS):
            self._write_status()


def write_status(shard: Path, status: dict[str, Any]) -> None:
    """Replaces the status beside a shard."""
    path = status_path(shard)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(status, indent=2, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_status(shard: Path) -> dict[str, Any]:
    """The status beside a shard; empty where there is none, or none that can be read."""
    try:
        status = json.loads(status_path(shard).read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) and status.get("state") in STATES else {}


def is_living(shard: Path) -> bool:
    """Whether a process still writes the shard.

    Its lock tells, on this machine and where a network share carries locks; else, for another
    machine's process, the age of its status.
    """
    try:
        with shard.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file is gone, or on a file system without locks
        pass
    status = read_status(shard)
    if status.get("state", "ended") == "ended" or status.get("host") == socket.gethostname():
        return False
    with suppress(FileNotFoundError):
        # A time in the future, by another machine's clock, tells as little as one long past.
        return abs(time.time() - status_path(shard).stat().st_mtime) < SILENCE_SECONDS
    return False


def complete_status(writer: ShardWriter, counts: dict[str, Any]) -> None:
    """Lets the group's latest status say that its share is complete.

    It doesn't yet if the launch that answered the last prompt was killed right after.
    """
    shards = [s for s in find_shards(writer.name.run) if s != writer.path]
    own = [s for s in shards if parse_shard_name(s)[:3] == writer.name[:3]]
    if own and not is_living(own[-1]) and read_status(own[-1]).get("finished") is not True:
        write_status(own[-1], {**read_status(own[-1]), **counts, "state": "ended"})


def describe_launch(status: dict[str, Any]) -> str:
    """Who writes a shard, in words."""
    if "process" not in status:
        return "another process"
    return f"process {status['process']} on {status.get('host')} (since {status.get('since')})"


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Launches look at each other in turn, so that two that start at once don't both go on.

    Only for so long, and not where a folder can't be locked: all that is at stake is double work.
    """
    file = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(file)
