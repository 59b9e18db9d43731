"""The user prompts of a generation run: read, checked, made unique, and dealt out to groups."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

EMPTY_ARRAY = re.compile(r"\[\s*\]")
OPENING, BEFORE_ELEMENT, CLOSING = (re.compile(rf"\s*\{sign}\s*") for sign in "[,]")
READABLE = ".json (an array), .jsonl (an object a line) or .parquet"


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Reads prompt records, sorted by id, each id once.

    Every record has a string `id`, `instruction` and `input`; its other fields are as in the file.
    A record without `id` gets the first 16 hexadecimal digits of the SHA-256 over instruction,
    NUL and input. Two records with one id and one text are one prompt.

    Raises FileNotFoundError, or ValueError naming file and row, for what can't be read.
    """
    prompts: dict[str, dict[str, Any]] = {}
    rows = 0
    for row_number, row in _read_rows(path):
        rows += 1
        try:
            _add_prompt(prompts, _checked(row))
        except ValueError as error:
            raise ValueError(f"{path}, row {row_number}: {error}") from None
    if not prompts:
        raise ValueError(f"{path} is empty: no prompts to answer")
    if rows > len(prompts):
        logger.info("%s: %d repeated prompts are answered once", path, rows - len(prompts))
    return [prompts[prompt_id] for prompt_id in sorted(prompts)]


def deal_prompts(
    prompts: list[dict[str, Any]], group_size: int, group_rank: int
) -> list[dict[str, Any]]:
    """The share of one group: every `group_size`-th of all prompts, from `group_rank` on.

    It depends on the whole list alone, so groups may start at different times.
    """
    return prompts[group_rank::group_size]


def prompt_id_of(instruction: str, input_text: str) -> str:
    """The id of a prompt that brings none: 16 hexadecimal digits of a hash of its text."""
    return hashlib.sha256(f"{instruction}\0{input_text}".encode()).hexdigest()[:16]


def _add_prompt(prompts: dict[str, dict[str, Any]], prompt: dict[str, Any]) -> None:
    earlier = prompts.setdefault(prompt["id"], prompt)
    if earlier is prompt:
        return
    if any(earlier[name] != prompt[name] for name in ("instruction", "input")):
        raise ValueError(
            f"the id {prompt['id']!r} also belongs to another prompt, "
            f"{_shortened(earlier['instruction'])!r}. Give each prompt an id of its own, or none"
        )
    # Which of the two stays must not hang on their order in the file.
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


def _text(row: dict[str, Any], name: str) -> str:
    value = "" if row.get(name) is None else row[name]
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {_shortened(str(value))!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the {name} has half a character at position {error.start}") from None
    return value


def _id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"the id is {_shortened(str(value))!r}, neither a text nor a whole number")
    prompt_id = str(value)
    if not prompt_id.isprintable():
        raise ValueError(f"the id {prompt_id!r} has characters that can't be printed")
    return prompt_id


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def _read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no such prompt file: {path}")
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path} ends with {path.suffix!r}; prompts are read from {READABLE}")
    return readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for row_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield row_number, json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise ValueError(f"{path}, row {row_number}: malformed JSON: {error}") from None


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """Reads an array element by element, so that an error can name its row."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    if not text or EMPTY_ARRAY.fullmatch(text):
        return
    decoder = json.JSONDecoder()
    position, row_number = 0, 1
    while True:
        before = BEFORE_ELEMENT.match(text, position) if row_number > 1 else OPENING.match(text)
        if before is None:
            break
        try:
            row, position = decoder.raw_decode(text, before.end())
        except ValueError as error:
            raise ValueError(f"{path}, row {row_number}: malformed JSON: {error}") from None
        yield row_number, row
        row_number += 1
    if row_number == 1:
        raise ValueError(f"{path} is not a JSON array; an object a line belongs in a .jsonl file")
    if not CLOSING.fullmatch(text, position):
        raise ValueError(f"{path}, row {row_number}: malformed JSON: expected a comma or the end ]")


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
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
