"""Training records on disk: gathered in any order, written in a seeded one."""

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

COLUMNS = ("example_id", "id", "instruction", "input", "output", "finished", "source")
ROWS_PER_GROUP = 10_000


def encode_record(record: dict[str, Any]) -> bytes:
    """A training record without its `example_id`, as one line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


class ShuffledRecords:
    """Encoded records in a temporary file, read back in an order that hangs on seed and ids alone.

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
        order = numpy.argsort(numpy.frombuffer(self._keys, dtype=numpy.uint64), kind="stable")
        for example_id, index in enumerate(order, start=1):
            start, end = self._offsets[index], self._offsets[index + 1]
            line = os.pread(self._file.fileno(), end - start, start)
            yield b'{"example_id": %d, %s' % (example_id, line[1:])


def seeded_key(seed: int, record_id: str) -> int:
    """A random number of 64 bits that hangs on the seed and the id alone."""
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


def write_parquet(lines: Iterator[bytes], path: Path) -> None:
    """Writes encoded records as parquet: the columns of every training record, no others."""
    import pyarrow
    import pyarrow.parquet

    types = {"example_id": pyarrow.int64(), "finished": pyarrow.bool_()}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in COLUMNS])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
