"""Response records, streamed from shards, checked, and each prompt's taken once."""

import json
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_file import prompt_id_of

ALLOW = "or go on without them with --allow_missing"
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class TornLineError(ValueError):
    """The last line of a shard is not whole: its writer was killed."""


def read_responses(
    path: Path, on_bytes: Callable[[int], object] = int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (row number from 1, response record) of one shard; `on_bytes` is told row sizes.

    Each record has texts as `id`, `instruction`, `input` and `output`; one without `id` gets the
    hash of its prompt. Raises ValueError with file and row for any other row, TornLineError for a
    torn last line.
    """
    with path.open("rb") as file:
        for row_number, line in enumerate(file, start=1):
            try:
                record = _checked(line)
            except ValueError as error:
                place = f"{path}, row {row_number}"
                if line.endswith(b"\n"):
                    raise ValueError(f"{place}: not a response record: {error}") from None
                raise TornLineError(
                    f"{place}: the last line is torn after {len(line)} bytes. Start the generation "
                    f"again, which repairs it, {ALLOW}"
                ) from None
            on_bytes(len(line))
            yield row_number, record


def _checked(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    if SURROGATE.search(line):  # half a pair has no UTF-8 form, and no output could be written
        whole = json.dumps(record, ensure_ascii=False).encode(errors="replace")
        record = json.loads(whole)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if not isinstance(record.get("instruction"), str):
        raise ValueError("`instruction` is not a text")
    record["input"] = record.get("input") or ""
    if not isinstance(record["input"], str):
        raise ValueError("`input` is not a text")
    record["output"] = response_text(record)
    if not isinstance(record.get("finish_reason"), str | None):
        raise ValueError("`finish_reason` is not a text")
    record["id"] = str(record.get("id") or prompt_id_of(record["instruction"], record["input"]))
    return record


def response_text(record: dict[str, Any]) -> str:
    """The raw text of a response record; older files keep it as `{"generation": text}`.

    Raises ValueError if there is none.
    """
    output = record.get("output")
    if isinstance(output, dict):
        output = output.get("generation")
    if not isinstance(output, str):
        raise ValueError('`output` is neither a text nor {"generation": text}')
    return output


class ResponseReader:
    """Reads the responses of several shards, in their order, each prompt's once.

    After reading, `answered` holds the ids, `repeated` the number of equal second answers and
    `torn` the shards with a torn last line (an error unless `allow_torn`).
    """

    def __init__(self, shards: list[Path], *, allow_torn: bool) -> None:
        self.shards = shards
        self.allow_torn = allow_torn
        self.repeated = 0
        self.torn: list[Path] = []
        self._places: dict[str, int] = {}  # id: index into the arrays
        self._hashes, self._shards, self._rows = array("q"), array("L"), array("L")

    @property
    def answered(self) -> set[str]:
        return set(self._places)

    def read(self, on_bytes: Callable[[int], object] = int) -> Iterator[dict[str, Any]]:
        """Yields the records. Raises ValueError if a prompt has two different answers."""
        for shard_number, shard in enumerate(self.shards):
            try:
                for row_number, record in read_responses(shard, on_bytes):
                    if self._is_new(record, shard_number, row_number):
                        yield record
            except TornLineError:
                if not self.allow_torn:
                    raise
                self.torn.append(shard)

    def _is_new(self, record: dict[str, Any], shard_number: int, row_number: int) -> bool:
        content = hash((record["instruction"], record["input"], record["output"]))
        place = self._places.setdefault(record["id"], len(self._hashes))
        if place == len(self._hashes):
            self._hashes.append(content)
            self._shards.append(shard_number)
            self._rows.append(row_number)
            return True
        if self._hashes[place] != content:
            raise ValueError(
                f"prompt {record['id']} is answered twice and differently, in "
                f"{self.shards[self._shards[place]]}, row {self._rows[place]}, and in "
                f"{self.shards[shard_number]}, row {row_number}. Remove one of the two rows"
            )
        self.repeated += 1
        return False
