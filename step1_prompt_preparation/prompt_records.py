"""The prompt record: what this stage writes and the next one reads."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ID_DIGITS = 16


def prompt_id(instruction: str, input_text: str = "") -> str:
    """16 hex digits of SHA-256 over instruction NUL input: the same on every machine."""
    text = f"{instruction}\0{input_text}"
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def prompt_record(
    instruction: str, source: str, input_text: str = "", extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One record in the order of the contract; `extra` fields travel along behind it."""
    record = {
        "id": prompt_id(instruction, input_text),
        "instruction": instruction,
        "input": input_text,
        "output": "",
        "source": source,
    }
    return record | {name: value for name, value in (extra or {}).items() if name not in record}


def full_prompt(record: dict[str, Any]) -> str:
    """What the model will read of a record: instruction, blank line, input."""
    return "\n\n".join(filter(None, (record["instruction"], record["input"])))


def is_valid_unicode(text: str) -> bool:
    """False for a text with lone surrogates, which no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seeded_order(items: Iterable[Any], seed: int, id_of: Callable[[Any], str]) -> list[Any]:
    """Shuffled by a hash of seed and id: the order of the inputs does not matter."""
    return sorted(items, key=lambda item: (seeded_digest(id_of(item).encode(), seed), id_of(item)))


def seeded_digest(content: bytes, seed: int) -> bytes:
    """A pseudo-random number of 32 bytes that depends on seed and content alone."""
    return hashlib.sha256(b"%d\0" % seed + content).digest()


def write_prompts(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON array, a record a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write(",\n" if number else "\n")
            text = json.dumps(record, ensure_ascii=False)
            file.write(text if is_valid_unicode(text) else json.dumps(record))
        file.write("\n]\n")
        file.flush()
        os.fsync(file.fileno())
