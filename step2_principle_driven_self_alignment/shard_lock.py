"""Who may write a response shard: one owner at a time, also across machines and restarts.

Beside a shard that is being written lies `SHARD.lock`: one JSON object that names the owner (a
random token, host, process, Slurm job) and how far it is. The owner refreshes it every few
seconds, so that others can tell a living owner from a dead one:

- on the same machine by process id and start time;
- from another machine by the age of the last refresh;
- an earlier life of the same Slurm job (same job id, lower restart count) counts as dead even
  while it still runs: Slurm has given its work to us.

Every write happens under a short `flock` on that file and only while the token in it is still
the writer's own. Whoever takes a lock over writes another token, so an orphan of an earlier life
can't append any more: its next write fails with `ShardTakenOverError`.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 5.0
HEARTBEAT_LIMIT_SECONDS = 60.0
FLOCK_LIMIT_SECONDS = 10.0
LOCK_FILE_BYTES = 2048  # padded to one size, so that a refresh is a single write in place
NO_FLOCK_ERRORS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class ShardOwnedError(RuntimeError):
    """Another living process owns the shard."""


class ShardTakenOverError(RuntimeError):
    """The shard that this process was writing belongs to another one now."""


def lock_path(shard: Path) -> Path:
    """The lock file of a shard."""
    return shard.with_name(shard.name + ".lock")


@dataclass(frozen=True)
class ShardOwner:
    """The process that a lock file names, and what it last told about itself."""

    token: str
    host: str
    machine: str
    pid: int
    process_start: str
    since: str
    slurm_job_id: str = ""
    slurm_restart_count: int = 0
    status: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def this_process(cls) -> "ShardOwner":
        """Describes the calling process, with a fresh token."""
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=machine_identity(),
            pid=os.getpid(),
            process_start=process_start(os.getpid()) or "",
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            slurm_job_id=os.environ.get("SLURM_JOB_ID", ""),
            slurm_restart_count=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def is_alive(self, last_refresh: float, now: float) -> bool:
        """Whether the owner still lives; both times in seconds, by the file system's clock."""
        if self.machine == machine_identity():
            return process_start(self.pid) == self.process_start
        return now - last_refresh < HEARTBEAT_LIMIT_SECONDS

    def is_earlier_life_of(self, other: "ShardOwner") -> bool:
        """Whether Slurm has restarted this owner's job as `other`."""
        same_job = self.slurm_job_id != "" and self.slurm_job_id == other.slurm_job_id
        return same_job and self.slurm_restart_count < other.slurm_restart_count

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


def machine_identity() -> str:
    """Names the set of processes whose ids this process can look up: one boot, one namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> str | None:
    """The start time of a living process in the system's own ticks; None if it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start


def read_owner(shard: Path) -> tuple[ShardOwner, float] | None:
    """The owner that a shard's lock file names and its last refresh in seconds; None if none."""
    try:
        with lock_path(shard).open("rb") as file:
            return _parse_owner(file.read()), os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, ValueError):
        return None


def _parse_owner(content: bytes) -> ShardOwner:
    try:
        return ShardOwner(**json.loads(content))
    except TypeError as error:
        raise ValueError(f"not a lock file: {error}") from error


class ShardLock:
    """Ownership of one shard; see the module's text for the protocol."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self.path = lock_path(shard)
        self.owner = ShardOwner.this_process()

    def acquire(self) -> ShardOwner | None:
        """Takes the shard; returns the dead owner it was taken from, None if there was none.

        Raises ShardOwnedError if a living process owns it.
        """
        with _locked(self.path, create=True, limit=FLOCK_LIMIT_SECONDS) as lock_file:
            previous = read_owner(self.shard)
            if previous is not None:
                refuse_living_owner(self.shard, *previous, self.owner)
            _write_owner(lock_file, self.owner)
        return previous[0] if previous else None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Runs the block while nobody else can take the shard; ShardTakenOverError if one has."""
        try:
            with _locked(self.path) as lock_file:
                self._check_token(lock_file)
                yield
        except FileNotFoundError:
            raise self._taken_over("its lock file is gone") from None

    def refresh(self, status: dict[str, Any]) -> None:
        """Shows that the owner lives, and how far it is."""
        owner = ShardOwner(**{**asdict(self.owner), "status": status})
        try:
            with _locked(self.path) as lock_file:
                self._check_token(lock_file)
                _write_owner(lock_file, owner)
        except FileNotFoundError:
            raise self._taken_over("its lock file is gone") from None

    def release(self) -> None:
        """Removes the lock file, unless it is another owner's."""
        try:
            with self.owned():
                self.path.unlink()
        except ShardTakenOverError:
            pass

    def _check_token(self, lock_file: int) -> None:
        try:
            owner = _parse_owner(os.pread(lock_file, LOCK_FILE_BYTES, 0))
        except ValueError:
            raise self._taken_over("its lock file is damaged") from None
        if owner.token != self.owner.token:
            raise self._taken_over(f"it belongs to {owner} now")

    def _taken_over(self, why: str) -> ShardTakenOverError:
        return ShardTakenOverError(
            f"{self.shard} is no longer this process's to write: {why}. "
            f"Process {self.owner.pid} on {self.owner.host} stops; nothing is lost."
        )


def refuse_living_owner(
    shard: Path, owner: ShardOwner, last_refresh: float, applicant: ShardOwner
) -> None:
    """Raises ShardOwnedError if `owner` lives and isn't an earlier life of `applicant`."""
    if owner.is_earlier_life_of(applicant):
        return
    if applicant.is_earlier_life_of(owner):
        raise ShardOwnedError(
            f"{shard} belongs to {owner}, a later life of this Slurm job "
            f"({owner.slurm_job_id}, restart {owner.slurm_restart_count}); this one stops"
        )
    now = _file_system_time(shard.parent)
    if owner.is_alive(last_refresh, now):
        silence = max(0.0, now - last_refresh)
        raise ShardOwnedError(
            f"{shard} is being written by {owner}, last sign of life {silence:.0f} s ago. End that "
            f"process first, or wait for it; one on another machine counts as dead after "
            f"{HEARTBEAT_LIMIT_SECONDS:.0f} s of silence"
        )


def break_dead_lock(shard: Path, applicant: ShardOwner) -> None:
    """Removes the lock of a dead owner, so that an orphan can't go on; refuses a living one."""
    try:
        with _locked(lock_path(shard), limit=FLOCK_LIMIT_SECONDS):
            previous = read_owner(shard)
            if previous is not None:
                refuse_living_owner(shard, *previous, applicant)
            lock_path(shard).unlink()
    except FileNotFoundError:
        return


def _write_owner(lock_file: int, owner: ShardOwner) -> None:
    content = json.dumps(asdict(owner)).encode()
    assert len(content) <= LOCK_FILE_BYTES, "the status in a lock file has outgrown it"
    os.pwrite(lock_file, content.ljust(LOCK_FILE_BYTES), 0)


@contextmanager
def _locked(path: Path, *, create: bool = False, limit: float | None = None) -> Iterator[int]:
    """Opens a lock file and holds its `flock`; the file is the one at `path`, not a deleted one."""
    deadline = None if limit is None else time.monotonic() + limit
    is_current = False
    while not is_current:
        lock_file = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        try:
            _flock(lock_file, path, deadline)
            is_current = _is_file_at(lock_file, path)
            if is_current:
                yield lock_file
        finally:
            os.close(lock_file)


def _is_file_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _flock(lock_file: int, path: Path, deadline: float | None) -> None:
    while True:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | (fcntl.LOCK_NB if deadline else 0))
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ShardOwnedError(
                    f"another process holds {path} for {FLOCK_LIMIT_SECONDS:.0f} s already; "
                    "end it (it may be stopped) and start again"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            # Some cluster file systems have no locks. The token and the renamed shard still keep
            # two owners from mixing their rows; only the answer at a takeover may be lost.
            if error.errno not in NO_FLOCK_ERRORS:
                raise
            return


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps files in `folder` (on a network share, the server's)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
