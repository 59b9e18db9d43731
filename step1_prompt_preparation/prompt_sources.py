"""Where rows come from: .json, .jsonl, .csv and .parquet files, folders of them, Hub data sets."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from input_errors import InputError
from json_arrays import read_json_array

ENDINGS = (".json", ".jsonl", ".parquet", ".csv")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
ROWS_PER_BATCH = 1000
UNREADABLE_ROW = object()  # stands for a row whose text is not UTF-8


@dataclass(frozen=True)
class PromptSource:
    """One local file (`path`) or one Hub data set (`path` is None), asked for with `flag`."""

    name: str
    path: Path | None
    flag: str

    @property
    def ending(self) -> str:
        return self.path.suffix.lower() if self.path else ""


def find_sources(
    names: Iterable[str], flag: str, endings: Sequence[str] = ENDINGS
) -> list[PromptSource]:
    """The files and Hub data sets that `names` stand for, each once, sorted by name.

    Sorted, so that the order on the command line does not matter.

    Raises:
        InputError: nothing there by that name, or a file of another kind.
    """
    found: dict[str, PromptSource] = {}
    for name in names:
        for source in _expand(name, flag, endings):
            found[str(source.path.resolve()) if source.path else source.name] = source
    return sorted(found.values(), key=lambda source: (Path(source.name).name, source.name))


def _expand(name: str, flag: str, endings: Sequence[str]) -> list[PromptSource]:
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings)
        if not files:
            raise InputError(f"{flag}: no {' or '.join(endings)} file in the folder {name}")
        return [PromptSource(str(file), file, flag) for file in files]
    if path.exists():
        if path.suffix.lower() not in endings:
            raise InputError(f"{flag}: {name} does not end in {' or '.join(endings)}")
        return [PromptSource(name, path, flag)]
    if HUB_NAME.fullmatch(name) and path.suffix.lower() not in ENDINGS:
        return [PromptSource(name, None, flag)]
    raise InputError(f"{flag}: no such file or folder: {name}")


def read_rows(
    source: PromptSource, columns: Sequence[str] | None = None, *, every_split: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row); a row is what the file holds there, mostly a dict.

    Args:
        columns: the columns of a parquet file to read, where it has them; None for all.
        every_split: read all configurations and splits of a Hub data set, not just `train`.

    Raises:
        InputError: the file cannot be parsed (names file and row) or the Hub cannot be reached.
    """
    if source.path is None:
        return enumerate(_hub_rows(source, every_split), 1)
    readers = {".json": read_json_array, ".jsonl": _json_lines, ".csv": _csv_rows}
    if source.ending in readers:
        return readers[source.ending](source.path)
    return _parquet_rows(source.path, columns)


def read_column_batches(
    source: PromptSource, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """Yields parts of a parquet file or Hub data set, with exactly these columns.

    Raises:
        InputError: a column is missing, or the file is no parquet file.
    """
    if source.path is None:
        yield from _hub_batches(source, columns, batch_size)
        return
    with _open_parquet(source.path) as file:
        _require_columns(source.name, columns, file.schema_arrow.names)
        yield from _parquet_batches(file, source.path, columns, batch_size)


def _require_columns(name: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise InputError(
            f"{name}: no column {', '.join(map(repr, missing))}; it has {', '.join(present)}"
        )


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}: row {number} is not valid JSON: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from enumerate(csv.DictReader(file), 1)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a UTF-8 CSV file: {error}") from error


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:  # no pre-buffering: it holds a whole row group in memory
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable parquet file: {error}") from error


def _parquet_batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None, batch_size: int
) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=batch_size, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged parquet file: {error}") from error


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    number = 0
    with _open_parquet(path) as file:
        present = file.schema_arrow.names
        wanted = [column for column in columns if column in present] if columns else present
        for batch in _parquet_batches(file, path, wanted, ROWS_PER_BATCH):
            for row in _python_rows(batch):
                number += 1
                yield number, row


def _python_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # arrow does not check its texts; find the rows that are none
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield UNREADABLE_ROW


def _hub_rows(source: PromptSource, every_split: bool) -> Iterator[Any]:
    try:
        for rows in _open_hub(source.name, every_split):
            yield from rows
    except Exception as error:  # whatever the Hub's client raises: the remedy is the same
        raise _hub_error(source, error) from error


def _hub_batches(
    source: PromptSource, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    try:
        for rows in _open_hub(source.name, every_split=False):
            for table in rows.with_format("arrow").iter(batch_size=batch_size):
                _require_columns(source.name, columns, table.column_names)
                yield from table.select(columns).combine_chunks().to_batches()
    except InputError:
        raise
    except Exception as error:
        raise _hub_error(source, error) from error


def _open_hub(name: str, every_split: bool) -> Iterator[Any]:
    import datasets  # slow to import, and needed for Hub names only

    if not every_split:
        yield datasets.load_dataset(name, split="train", streaming=True)
        return
    for configuration in sorted(datasets.get_dataset_config_names(name)):
        splits = datasets.load_dataset(name, configuration, streaming=True)
        for split in sorted(splits):
            yield splits[split]


def _hub_error(source: PromptSource, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return InputError(
        f"{source.name}: no such local file, and the Hugging Face Hub did not give a data set of "
        f"that name ({type(error).__name__}: {reason}); {source.flag} also takes a local "
        ".json, .jsonl or .parquet file or a folder of them"
    )
