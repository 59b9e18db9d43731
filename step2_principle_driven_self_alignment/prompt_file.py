"""The user prompts of a run: read, checked, made unique and dealt out to groups.

Also reads the principle prompt that all of them are put behind (`prompt_format.py`: how).
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hand_written_text import read_text
from prompt_format import SELF_ALIGN, PromptFormat, format_path
from user_error import UserError

logger = logging.getLogger(__name__)

READABLE = ".json (an array), .jsonl (an object a line) or .parquet"
LFS_POINTER = b"version https://git-lfs"


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Reads prompt records, sorted by id, each id once.

    Every record has a string `id`, `instruction` and `input`; its other fields are as in the file.
    A record without `id` gets the first 16 hexadecimal digits of the SHA-256 over instruction,
    NUL and input. Two records with one id and one text are one prompt.

    Raises UserError naming file and row for what can't be read.
    """
    prompts: dict[str, dict[str, Any]] = {}
    rows = 0
    for row_number, row in read_rows(path):
        rows += 1
        try:
            _add_prompt(prompts, _checked(row))
        except ValueError as error:
            raise UserError(f"{path}, row {row_number}: {error}") from None
    if not prompts:
        raise UserError(f"{path} is empty: no prompts to answer")
    if rows > len(prompts):
        logger.info("%s: %d repeated prompts are answered once", path, rows - len(prompts))
    return [prompts[prompt_id] for prompt_id in sorted(prompts)]


def deal_prompts(
    prompts: list[dict[str, Any]], group_count: int, group_rank: int
) -> list[dict[str, Any]]:
    """The share of one group: every `group_count`-th of all prompts, from `group_rank` on.

    It depends on the whole list alone, so groups may start at different times.
    """
    return prompts[group_rank::group_count]


def prompt_id_of(instruction: str, input_text: str) -> str:
    """The id of a prompt that brings none: 16 hexadecimal digits of a hash of its text."""
    return hashlib.sha256(f"{instruction}\0{input_text}".encode()).hexdigest()[:16]


def read_principle_prompt(path: Path, prompt_format: PromptFormat = SELF_ALIGN) -> str:
    """The text in front of every user prompt; UserError unless the user's words can follow it."""
    text = read_text(path, "--prompt_file").rstrip()
    if not text:
        raise UserError(f"--prompt_file {path} is empty")
    if not text.endswith(prompt_format.ends_with):
        raise UserError(
            f"{path} ends with {text[-20:]!r}; it must end with {prompt_format.ends_with!r}, so "
            f"that the user's words can follow (or {format_path(path).name} beside it must tell "
            "how its dialogue goes)"
        )
    return text


def _add_prompt(prompts: dict[str, dict[str, Any]], prompt: dict[str, Any]) -> None:
    earlier = prompts.setdefault(prompt["id"], prompt)
    if earlier is prompt:
        return
    if any(earlier[name] != prompt[name] for name in ("instruction", "input")):
        raise ValueError(
            f"the id {prompt['id']!r} also belongs to another prompt, "
            f"{_shortened(earlier['instruction'])!r}. Give each prompt an id of its own, or none"
        )
    # Which of the two stays must not depend on their order in the file.
    prompts[prompt["id"]] = min(earlier, prompt, key=lambda p: json.dumps(p, sort_keys=True))


def _checked(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with 'instruction', found {_shortened(str(row))!r}")
    if "instruction" not in row:
        raise ValueError(f"no field 'instruction'; its fields are {', '.join(row) or 'none'}")
    instruction = _text(row, "instruction")
    input_text = _text(row, "input")
    if not instruction.strip() and not input_text.strip():
        raise ValueError("the instruction is empty. Remove the row, or write one")
    prompt_id = _id(row.get("id")) or prompt_id_of(instruction, input_text)
    return {**row, "id": prompt_id, "instruction": instruction, "input": input_text}


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # pandas writes NaN for what a row lacks


def _text(row: dict[str, Any], name: str) -> str:
    value = "" if _is_missing(row.get(name)) else row[name]
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {_shortened(str(value))!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the {name} has half a character at position {error.start}") from None
    return value


def _id(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # whole numbers with a gap among them: pandas makes them floats
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"the id is {_shortened(str(value))!r}, neither a text nor a whole number")
    prompt_id = str(value)
    if not prompt_id.isprintable():
        raise ValueError(f"the id {prompt_id!r} has characters that can't be printed")
    return prompt_id


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row) of a .json, .jsonl or .parquet file; UserError if it's none.

    A byte-order mark and blank lines are left out; only a line feed ends a line.
    """
    if not path.is_file():
        raise UserError(f"no such prompt file: {path}")
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(f"{path} ends with {path.suffix!r}; prompts are read from {READABLE}")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file; `git lfs pull` fetches it")
    return readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for row_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield row_number, json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise UserError(f"{path}, row {row_number}: malformed JSON: {error}") from None


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}, row {_count_rows(text) + 1}: malformed JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} is not a JSON array; an object a line belongs in a .jsonl file")
    yield from enumerate(rows, start=1)


def _count_rows(text: str) -> int:
    """The rows of a JSON array that are whole."""
    import ijson

    whole = 0
    try:
        for _ in ijson.items(text.encode(errors="replace"), "item"):
            whole += 1
    except ijson.JSONError:
        pass
    return whole


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        row_number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                row_number += 1
                # Dates and the like have no JSON form; a response record carries them as text.
                yield row_number, json.loads(json.dumps(row, default=str))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: {error}") from None
