"""Training records on disk: gathered in any order, written in a seeded one, published at once."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from user_error import UserError

COLUMNS = (
    *("example_id", "id", "instruction", "input", "output", "finished", "source"),
    "principles",
)
ROWS_PER_GROUP = 10_000
PARQUET = Path("data", "train-00000-of-00001.parquet")


def encode_record(record: dict[str, Any]) -> bytes:
    """A training record without its `example_id`, as one line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


class ShuffledRecords:
    """Encoded records in a temporary file, read back in an order by seed and ids alone.

    Memory is about 20 bytes a record. A context manager; leaving it removes the file.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._seed = seed
        self._offsets = array("Q", [0])
        self._keys = array("Q")

    def __enter__(self) -> "ShuffledRecords":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, record_id: str, line: bytes) -> None:
        """Takes a record in; its place in the order is drawn from the seed and its id."""
        self._file.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._keys.append(seeded_key(self._seed, record_id))

    def __iter__(self) -> Iterator[bytes]:
        """Yields the encoded records in their order, with `example_id` from 1 on."""
        self._file.flush()
        order = sorted(range(len(self)), key=self._keys.__getitem__)
        for example_id, index in enumerate(order, start=1):
            start, end = self._offsets[index], self._offsets[index + 1]
            line = os.pread(self._file.fileno(), end - start, start)
            yield b'{"example_id": %d, %s' % (example_id, line[1:])


def seeded_key(seed: int, record_id: str) -> int:
    """A random number of 64 bits, a function of the seed and the id."""
    digest = hashlib.blake2b(f"{seed} {record_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_records(lines: Iterator[bytes], path: Path, suffix: str) -> None:
    """Writes encoded records as one JSON array (`.json`) or one object a line (`.jsonl`)."""
    with path.open("wb") as file:
        if suffix == ".jsonl":
            file.writelines(lines)
            return
        separator = b"[\n"
        for line in lines:
            file.write(separator + line.rstrip(b"\n"))
            separator = b",\n"
        file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def write_parquet(lines: Iterator[bytes], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Writes encoded records as parquet: the columns that every training record has, no others."""
    import pyarrow
    import pyarrow.parquet

    types = {"example_id": pyarrow.int64(), "finished": pyarrow.bool_()}
    types["principles"] = pyarrow.list_(pyarrow.int64())
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))


class MergedFiles:
    """The files of a merge: written in a hidden folder beside them, then renamed into place.

    For an output file `merged.json`: `merged.json`, `merged.report.json`, `merged.report.html`,
    `merged.README.md`, and with `parquet` the folder `merged_dataset`. A context manager; what was
    not published when it is left is removed, and what a killed merge left when it is entered.
    """

    def __init__(self, output_file: Path, *, parquet: bool) -> None:
        self.training = output_file
        stem = output_file.stem
        self.report = output_file.with_name(f"{stem}.report.json")
        self.page = output_file.with_name(f"{stem}.report.html")
        self.card = output_file.with_name(f"{stem}.README.md")
        self.dataset = output_file.with_name(f"{stem}_dataset")
        self.folder = output_file.with_name(f".{output_file.name}.merging")
        self._parquet = parquet

    @property
    def dataset_files(self) -> list[Path]:
        """Card and records in the folder for `datasets`; none without `parquet`."""
        return [self.dataset / "README.md", self.dataset / PARQUET] if self._parquet else []

    def __enter__(self) -> "MergedFiles":
        self._check()
        self.folder.mkdir(exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"another merge is writing {self.training}; wait for its end") from None
        except OSError:  # a file system without locks
            pass
        for left in self.folder.iterdir():
            if left.name != "lock":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _check(self) -> None:
        parent = self.training.parent
        if not parent.is_dir():
            raise UserError(f"--output_file {self.training}: there is no folder {parent}; make it")
        if self.training.is_dir():
            raise UserError(f"--output_file {self.training} is a folder; name a file")
        others = set(self.dataset.glob("data/*.parquet")) - {self.dataset / PARQUET}
        if self._parquet and others:
            raise UserError(
                f"--parquet: {min(others)} would be loaded together with the new records; remove it"
            )

    def beside(self, path: Path) -> Path:
        """Where to write what shall become `path`; its folder is there."""
        place = self.folder / path.relative_to(self.training.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def publish(self, written: list[Path] | None = None) -> None:
        """Renames everything into place: reports first, the training records last.

        So a training file never stands beside an older report, at whatever point a merge is killed.
        `written`: the files that there are, in this order, if not all.
        """
        everything = [self.report, self.page, self.card, *self.dataset_files, self.training]
        for path in written or everything:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.beside(path).replace(path)
