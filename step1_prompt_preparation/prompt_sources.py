"""Where rows come from: files, folders of them, Hub data sets."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_line import InputError, UnreachableError
from row_files import ENDINGS, open_parquet, parquet_batches, read_file, without_nan

if TYPE_CHECKING:
    import pyarrow as pa

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class PromptSource:
    """One local file (`path`) or one Hub data set (`path` is None), asked for with `flag`."""

    name: str
    path: Path | None
    flag: str


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
        for source in _expand(name, flag, tuple(endings)):
            found[str(source.path.resolve()) if source.path else source.name] = source
    return sorted(found.values(), key=lambda source: (Path(source.name).name, source.name))


def _expand(name: str, flag: str, endings: tuple[str, ...]) -> list[PromptSource]:
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.lower().endswith(endings))
        if not files:
            raise InputError(f"{flag}: no {' or '.join(endings)} file in the folder {name}")
        return [PromptSource(str(file), file, flag) for file in files]
    if path.exists():
        if not path.name.lower().endswith(endings):
            raise InputError(f"{flag}: {name} does not end in {' or '.join(endings)}")
        return [PromptSource(name, path, flag)]
    if HUB_NAME.fullmatch(name) and not name.lower().endswith(ENDINGS):
        return [PromptSource(name, None, flag)]
    raise InputError(f"{flag}: no such file or folder: {name}")


def read_rows(
    source: PromptSource, columns: Sequence[str] | None = None, *, every_split: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row); a row is what the source holds there, mostly a dict.

    Args:
        columns: the columns of a parquet file to read, where it has them; None for all.
        every_split: read all configurations and splits of a Hub data set, not just `train`.

    Raises:
        InputError: the file cannot be parsed (names file and row) or the Hub cannot be reached.
    """
    if source.path is None:
        return enumerate(_hub_rows(source, every_split), 1)
    return read_file(source.path, columns)


def read_column_batches(
    source: PromptSource, columns: Sequence[str], batch_size: int
) -> Iterator["pa.RecordBatch"]:
    """Yields parts of a parquet file or Hub data set, with exactly these columns.

    Raises:
        InputError: a column is missing, or the file is no parquet file.
    """
    if source.path is None:
        yield from _hub_batches(source, columns, batch_size)
        return
    with open_parquet(source.path) as file:
        _require_columns(source.name, columns, file.schema_arrow.names)
        yield from parquet_batches(file, source.path, columns, batch_size)


def _require_columns(name: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise InputError(
            f"{name}: no column {', '.join(map(repr, missing))}; it has {', '.join(present)}"
        )


def _hub_rows(source: PromptSource, every_split: bool) -> Iterator[Any]:
    try:
        for rows in _open_hub(source.name, every_split):
            yield from map(without_nan, rows)
    except Exception as error:  # whatever the Hub's client raises: the remedy is the same
        raise _hub_error(source, error) from error


def _hub_batches(
    source: PromptSource, columns: Sequence[str], batch_size: int
) -> Iterator["pa.RecordBatch"]:
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


def _hub_error(source: PromptSource, error: Exception) -> UnreachableError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UnreachableError(
        f"{source.name}: no such local file, and the Hugging Face Hub did not give a data set of "
        f"that name ({type(error).__name__}: {reason}); {source.flag} also takes a local "
        ".json, .jsonl or .parquet file or a folder of them"
    )
