"""The files that a generation run writes its responses to.

A run named NAME (from `--output_file NAME.jsonl`) consists of one JSONL file a group of
processes, `NAME_{GROUP_SIZE}shards_{GROUP_RANK}.jsonl`, and of `NAME.manifest.json`. A shard is
append-only and one response is one line, so a kill at any byte leaves at most its last line torn.
Readers leave a torn last line out; the owner of a shard repairs it before it appends.
"""

import errno
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard_lock import (
    HEARTBEAT_SECONDS,
    ShardLock,
    ShardOwnedError,
    ShardOwner,
    ShardTakenOverError,
    break_dead_lock,
)

logger = logging.getLogger(__name__)

SHARD_NAME = re.compile(r"(?P<name>.+)_(?P<size>[1-9]\d*)shards_(?P<rank>\d+)\.jsonl")
ROW_WITH_ID = re.compile(rb'\{"id": "([^"\\]+)", ')


def run_name(output_file: str | Path) -> Path:
    """The NAME that all files of a run begin with: the output file without `.jsonl`."""
    path = Path(output_file)
    return path.with_suffix("") if path.suffix == ".jsonl" else path


def shard_path(name: Path, group_size: int, group_rank: int) -> Path:
    """Where group `group_rank` of `group_size` groups writes its responses."""
    return name.with_name(f"{name.name}_{group_size}shards_{group_rank}.jsonl")


def manifest_path(name: Path) -> Path:
    """Where the run's manifest lies."""
    return name.with_name(f"{name.name}.manifest.json")


def summary_path(shard: Path) -> Path:
    """Where the summary of a shard's latest launch lies."""
    return shard.with_suffix(".summary.json")


def parse_shard_name(path: Path) -> tuple[Path, int, int] | None:
    """The (NAME, group size, group rank) in a shard's path; None for any other file."""
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or int(match["rank"]) >= int(match["size"]):
        return None
    return path.with_name(match["name"]), int(match["size"]), int(match["rank"])


def find_shards(name: Path) -> list[Path]:
    """All shards of a run, whatever group sizes wrote them, by group size and rank."""
    if not name.parent.is_dir():
        return []
    found = [(parse_shard_name(path), path) for path in name.parent.iterdir()]
    return [path for _, path in sorted((p, f) for p, f in found if p is not None and p[0] == name)]


def hash_prompt_ids(ids: Iterable[str]) -> str:
    """SHA-256 over the sorted ids, one a line, in hexadecimal."""
    digest = hashlib.sha256()
    for prompt_id in sorted(ids):
        digest.update(prompt_id.encode() + b"\n")
    return digest.hexdigest()


def parse_row(line: bytes) -> dict[str, Any] | None:
    """A shard's line as a record; None if it isn't a whole response record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "id" in record else None


def encode_row(record: dict[str, Any]) -> bytes:
    """A response record as a shard's line."""
    # A lone surrogate has no UTF-8 form; its backslash form is a JSON escape again.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def read_shard(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row number from 1, response record); leaves a torn last line out with a warning.

    Raises ValueError with file and row number where any other line is damaged.
    """
    with path.open("rb") as file:
        for row_number, line in enumerate(file, start=1):
            record = parse_row(line)
            if record is not None:
                yield row_number, record
            elif not line.endswith(b"\n"):
                logger.warning(
                    "%s: the last line is torn (%d bytes); its prompt counts as not answered",
                    *(path, len(line)),
                )
            else:
                raise ValueError(
                    f"{path}, row {row_number}: not a response record. Remove this line; the "
                    "next launch answers its prompt again"
                )


def read_ids(path: Path) -> list[str]:
    """The id of each whole row; quick, since a shard's rows begin with their id.

    Raises ValueError as `read_shard` does.
    """
    ids = []
    with path.open("rb") as file:
        for line in file:
            match = ROW_WITH_ID.match(line)
            if match is None or not line.endswith(b"}\n"):
                return [record["id"] for _, record in read_shard(path)]
            ids.append(match[1].decode())
    return ids


@dataclass(frozen=True)
class RepairedShard:
    """What a repair found: the finish reason of each answered id, and what it set aside."""

    finish_reasons: dict[str, str]
    torn_bytes: int


def repair_shard(path: Path) -> RepairedShard:
    """Keeps a shard's whole rows and moves everything else to `SHARD.torn`.

    The good rows go to a new file that replaces the shard, even if nothing is torn: a process
    that still has the old file open then writes to a file that no longer has a name.
    Only the owner of the shard may call this.
    """
    finish_reasons: dict[str, str] = {}
    torn: list[bytes] = []
    repaired = path.with_name(path.name + ".repair")
    with repaired.open("wb") as target:
        for line in _lines(path):
            record = parse_row(line)
            if record is None:
                torn.append(line)
            else:
                finish_reasons[record["id"]] = str(record.get("finish_reason"))
                target.write(line if line.endswith(b"\n") else line + b"\n")
        _to_disk(target)
    if torn:
        with path.with_name(path.name + ".torn").open("ab") as target:
            target.writelines(line if line.endswith(b"\n") else line + b"\n" for line in torn)
            _to_disk(target)
    repaired.replace(path)
    return RepairedShard(finish_reasons, sum(map(len, torn)))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class ShardWriter:
    """The one process that appends to a shard; a context manager.

    Entering takes the shard (ShardOwnedError if a living process owns it), refuses to run beside
    a living owner of another group size of the same run, and repairs the shard. While it is
    open, a thread shows others that the owner lives, and what `status()` returns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: Callable[[], dict[str, Any]] = dict  # what the lock file tells others
        self.finish_reasons: dict[str, str] = {}  # of each id that the shard answers
        self._lock = ShardLock(path)
        self._file = -1
        self._closing = threading.Event()
        self._heartbeat = threading.Thread(target=self._show_life, daemon=True)

    def __enter__(self) -> "ShardWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        previous_owner = self._lock.acquire()
        if previous_owner is not None:
            logger.warning("%s: taken over from %s", self.path, previous_owner)
        try:
            refuse_other_group_sizes(self.path, self._lock.owner)
            self._repair_and_open()
        except BaseException:
            self._lock.release()
            raise
        self._heartbeat.start()
        return self

    def append(self, record: dict[str, Any]) -> None:
        """Adds one response; when this returns, a kill of the process can't lose it.

        Raises ShardTakenOverError if another process has taken the shard over.
        """
        line = encode_row(record)
        with self._lock.owned():
            if self._was_replaced():
                raise ShardTakenOverError(f"{self.path} was replaced by another process; stopping")
            while line:
                line = line[os.write(self._file, line) :]
        self.finish_reasons[record["id"]] = str(record.get("finish_reason"))

    def _repair_and_open(self) -> None:
        with self._lock.owned():
            repaired = repair_shard(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.finish_reasons = repaired.finish_reasons
        if repaired.torn_bytes:
            logger.warning(
                "%s: %d torn bytes were moved to %s.torn; their prompts are answered again",
                *(self.path, repaired.torn_bytes, self.path.name),
            )

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._heartbeat.join()
        if exception[0] is None:
            os.fsync(self._file)
        os.close(self._file)
        self._lock.release()

    def _was_replaced(self) -> bool:
        try:
            return os.fstat(self._file).st_nlink == 0
        except OSError as error:
            if error.errno != errno.ESTALE:  # how a network share says the same
                raise
            return True

    def _show_life(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            try:
                self._lock.refresh(self.status())
            except ShardTakenOverError:
                return  # the next append reports it
            except OSError as error:
                logger.warning("%s: can't refresh the lock: %s", self.path, error)


def refuse_other_group_sizes(shard: Path, applicant: ShardOwner) -> None:
    """Raises ShardOwnedError if a living process writes a shard of another group size.

    Groups of another size deal the prompts out differently: both would answer some of them.
    Dead owners of such shards lose their locks, so that an orphan can't go on beside us.
    """
    name, size, _ = parse_shard_name(shard)
    for other in find_shards(name):
        if parse_shard_name(other)[1] == size:
            continue
        try:
            break_dead_lock(other, applicant)
        except ShardOwnedError as error:
            raise ShardOwnedError(
                f"groups of another size still run, and the two would share prompts: {error}"
            ) from None
