"""The records that the merge hands to fine-tuning, from .json, .jsonl or .parquet.

Fields: `instruction`, `output`, and where present `input`, `example_id`, `finished`. Other fields
are ignored here. A file without `finished`, such as the published data set, marks a finished reply
by the heading of the next user turn at the end of `output`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dialogue_format import ends_with_marker

logger = logging.getLogger(__name__)

ENDINGS = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class TrainingRecord:
    """One example: what the user says, what the assistant should say, and whether that text is
    whole.
    """

    example_id: int
    instruction: str
    input: str
    output: str
    finished: bool


def read_training_records(path: Path) -> list[TrainingRecord]:
    """All records of a file, in file order.

    Raises FileNotFoundError for a missing file, and ValueError with file and row for anything
    malformed.
    """
    rows = list(_read_rows(path))
    if not rows:
        raise ValueError(f"{path} holds no records")
    records = [_as_record(row, number, path) for number, row in enumerate(rows, start=1)]
    if not any("finished" in row or ends_with_marker(row["output"]) for row in rows):
        logger.warning(
            "%s has neither a field 'finished' nor end markers: every reply is taken as finished",
            path,
        )
        records = [_finished(record) for record in records]
    return records


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_rows(path: Path) -> Iterator[dict]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no file '{path}'; --data_file and --eval_data_file take local files"
        )
    if path.suffix == ".json":
        yield from _read_json(path)
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        raise ValueError(f"'{path}' must end with one of {', '.join(ENDINGS)}")


def _read_json(path: Path) -> list[dict]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold one JSON array of records, not a {type(rows).__name__}")
    return rows


def _read_jsonl(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, row {number}: not valid JSON: {error}") from error


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error


def _as_record(row: object, number: int, path: Path) -> TrainingRecord:
    if not isinstance(row, dict):
        raise ValueError(f"{path}, row {number}: a record must be an object, not {row!r:.60}")
    texts = {name: row.get(name) for name in ("instruction", "output")}
    texts["input"] = row.get("input") or ""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(
                f"{path}, row {number}: the field '{name}' must be a text, not {text!r:.60}"
            )
    finished = row.get("finished")
    if finished is None:
        finished = ends_with_marker(texts["output"])
    example_id = row.get("example_id")
    example_id = number if example_id is None else example_id
    if not isinstance(finished, bool) or not isinstance(example_id, int):
        raise ValueError(
            f"{path}, row {number}: 'finished' must be true or false and 'example_id' a whole "
            f"number, not {finished!r:.40} and {example_id!r:.40}"
        )
    return TrainingRecord(example_id, finished=finished, **texts)


def _finished(record: TrainingRecord) -> TrainingRecord:
    return TrainingRecord(
        record.example_id, record.instruction, record.input, record.output, finished=True
    )
