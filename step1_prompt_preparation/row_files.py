"""The one reader of each file format: .json, .jsonl and .csv (also .gz and .zst), .parquet.

What people's files hold is put right here: byte-order marks, blank lines, NaN for missing values,
line separators inside strings. What they hold instead of data is named: Git LFS pointers, UTF-16,
files that are cut off.
"""

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from command_line import InputError
from json_arrays import DECODER, JsonArray

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COMPRESSIONS = (".gz", ".zst")
RECORD_ENDINGS = (
    *(text + packed for text in (".json", ".jsonl") for packed in ("", *COMPRESSIONS)),
    ".parquet",
)
ENDINGS = (*RECORD_ENDINGS, ".csv", ".csv.gz", ".csv.zst")
ROWS_PER_BATCH = 1000
UNREADABLE_ROW = object()  # stands for a row whose text is not UTF-8
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row); a row is what the file holds there, mostly a dict.

    Args:
        columns: the columns of a parquet file to read, where it has them; None for all.

    Raises:
        InputError: the file cannot be parsed; names file and row.
    """
    refuse_lfs_pointer(path)
    plain_name = Path(path.name.lower())
    if plain_name.suffix in COMPRESSIONS:
        plain_name = plain_name.with_suffix("")
    if plain_name.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    readers = {".jsonl": _json_lines, ".json": _json_array, ".csv": _csv_rows}
    try:
        with _open_bytes(path) as file:
            yield from readers[plain_name.suffix](file, path)
    except EOFError as error:
        raise InputError(f"{path}: the compressed file is cut off; fetch it again") from error
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file: {error}") from error


def refuse_lfs_pointer(path: Path) -> None:
    """InputError if Git left a pointer where the file itself should be."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(
                f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` where it was "
                "cloned, or download the file"
            )


def open_parquet(path: Path) -> "pq.ParquetFile":
    """Opens a parquet file to be read in batches; InputError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_lfs_pointer(path)
    try:  # no pre-buffering: it holds a whole row group in memory
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable parquet file: {error}") from error


def parquet_batches(
    file: "pq.ParquetFile", path: Path, columns: Sequence[str] | None, batch_size: int
) -> Iterator["pa.RecordBatch"]:
    """The file's rows in batches; InputError where its data are damaged."""
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=batch_size, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged parquet file: {error}; fetch it again") from error


def without_nan(row: Any) -> Any:
    """The row with None where a field is NaN: that is how pandas writes a missing value."""
    if not isinstance(row, dict):
        return row
    return {name: None if value != value else value for name, value in row.items()}


def _open_bytes(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".zst":
        return _open_zst(path)
    return path.open("rb")


def _open_zst(path: Path) -> BinaryIO:
    import pyarrow as pa

    return io.BufferedReader(_Unpacked(pa.input_stream(str(path), compression="zstd"), path))


class _Unpacked(io.RawIOBase):
    """Arrow's decompressed stream as a Python file, with errors that name the file."""

    def __init__(self, stream: "pa.NativeFile", path: Path) -> None:
        self._stream = stream
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._stream.readinto(buffer)
        except OSError as error:
            raise InputError(f"{self._path}: damaged or cut off .zst file: {error}") from error


def _json_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):  # of bytes: a line ends at a line feed only
        if number == 1:
            _refuse_utf_16(line, path)
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace():
            continue
        try:
            yield number, DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            cut = "" if line.endswith(b"\n") else " (is the file cut off?)"
            raise InputError(f"{path}: row {number} is not valid JSON: {error}{cut}") from error


def _json_array(file: BinaryIO, path: Path) -> Iterator[tuple[int, Any]]:
    buffered = io.BufferedReader(file)
    _refuse_utf_16(buffered.peek(2), path)
    array = JsonArray(io.TextIOWrapper(buffered, encoding="utf-8-sig"), str(path))
    try:
        yield from enumerate(array, 1)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text near row {array.row}: {error.reason}; save it as UTF-8"
        ) from error


def _csv_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, Any]]:
    import pandas

    try:
        chunks = pandas.read_csv(
            file, dtype=str, keep_default_na=False, encoding="utf-8-sig", chunksize=ROWS_PER_BATCH
        )
        rows = (row for chunk in chunks for row in chunk.to_dict("records"))
        yield from enumerate(map(without_nan, rows), 1)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeError) as error:
        raise InputError(f"{path}: not a UTF-8 CSV file: {error}") from error


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    number = 0
    with open_parquet(path) as file:
        present = file.schema_arrow.names
        wanted = [column for column in columns if column in present] if columns else present
        for batch in parquet_batches(file, path, wanted, ROWS_PER_BATCH):
            for row in _python_rows(batch):
                number += 1
                yield number, without_nan(row)


def _python_rows(batch: "pa.RecordBatch") -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # arrow does not check its texts; find the rows that are none
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield UNREADABLE_ROW


def _refuse_utf_16(beginning: bytes, path: Path) -> None:
    if beginning.startswith(UTF_16_MARKS):
        raise InputError(f"{path}: UTF-16 text; save it as UTF-8")
