"""Text, JSON and rows of records from files as people really have them, and JSON to a file.

A byte-order mark is no part of a text, a line ends at a line feed only, and a Git LFS pointer is
not the file that it stands for.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engraving_command import UserError

ROW_ENDINGS = (".json", ".jsonl", ".parquet")
_LFS = b"version https://git-lfs.github.com/spec/"


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises UserError where it is missing, or no such text."""
    refuse_lfs_pointer(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: Path) -> dict:
    """A JSON object. Raises UserError where the file holds none."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not {content!r:.40}")
    return content


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file beside and renames it, so that nobody reads half of it."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    to_disk(partial)
    partial.replace(path)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Makes OSError of what the writers of weights raise on a full disk or at a limit."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(folder)) from error
        if "failed writing" in str(error):  # torch.save doesn't say why
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def to_disk(path: Path) -> None:
    """Waits until a file's or folder's content has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_lfs_pointer(path: Path) -> None:
    """Raises UserError for a missing file and for the pointer that Git LFS leaves in its place."""
    if not path.is_file():
        raise UserError(f"no file '{path}'")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise UserError(
                f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` in its folder "
                "fetches it"
            )


def read_rows(path: Path) -> Iterator[object]:
    """The rows of a .json array, of .jsonl lines or of a .parquet table, in file order.

    Raises UserError with file and row for what can't be read.
    """
    readers = {".json": _array_rows, ".jsonl": _line_rows, ".parquet": _table_rows}
    if path.suffix not in readers:
        raise UserError(f"'{path}' must end with one of {', '.join(ROW_ENDINGS)}")
    refuse_lfs_pointer(path)
    yield from readers[path.suffix](path)


def _array_rows(path: Path) -> Iterator[object]:
    import ijson

    with path.open("rb") as file:
        start = file.read(3)
        file.seek(3 if start == b"\xef\xbb\xbf" else 0)
        good_rows = 0
        try:
            for row in ijson.items(file, "item", use_float=True):
                good_rows += 1
                yield row
        except ijson.JSONError:  # NaN is one to this parser, and is what pandas writes for missing
            yield from _whole_array(path, good_rows)[good_rows:]
            return
    if good_rows == 0:
        yield from _whole_array(path, 0)


def _whole_array(path: Path, good_rows: int) -> list:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}, row {good_rows + 1}: not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise UserError(f"{path} must hold one JSON array of records, not {content!r:.40}")
    return content


def _line_rows(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 1
        try:
            for line in file:
                if line.strip():
                    yield json.loads(line)
                number += 1
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, row {number}: not UTF-8 text; save it so") from error
        except ValueError as error:
            raise UserError(f"{path}, row {number}: not valid JSON: {error}") from error


def _table_rows(path: Path) -> Iterator[object]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable parquet file: {first}") from error
