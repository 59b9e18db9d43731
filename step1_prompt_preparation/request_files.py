"""What is asked of the base model in order to get prompts, and what it answered.

A request is a prompt record for the generator of step 2. Its `id` is a hash of its text and of its
`draw`, so that one text may be asked several times, and each response depends on seed and id alone.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import InputError
from prompt_records import ID_DIGITS, write_prompts
from prompt_sources import find_sources, read_rows

ENDED = ("stop", "eos")  # finish reasons of responses that ended by themselves
FORMAT_SUFFIX = ".format.toml"  # of the file that describes a prompt file's dialogue


@dataclass(frozen=True)
class AnsweredRequest:
    """A request with the base model's response."""

    request: dict[str, Any]
    text: str
    finished: bool


def request_record(text: str, draw: int, **fields: object) -> dict[str, Any]:
    """A request; `fields` travel with it to the response."""
    digest = hashlib.sha256(f"{text}\0draw {draw}".encode()).hexdigest()
    record = {"id": digest[:ID_DIGITS], "instruction": text, "input": "", "output": ""}
    return record | {"draw": draw} | fields


def write_requests(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes a JSON array beside and renames it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_prompts(part, records)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_prompt_file(path: Path, text: str, dialogue: Path) -> None:
    """Writes a prompt file for the generator, and beside it the description of its dialogue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dialogue, path.with_suffix(FORMAT_SUFFIX))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_requests(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The requests by their id.

    Raises:
        InputError: a row is no request.
    """
    requests = {}
    for source in find_sources(map(str, paths), "--requests", (".json", ".jsonl")):
        for number, row in read_rows(source):
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise InputError(f"{source.name}: row {number} is no request: it has no 'id'")
            requests[row["id"]] = row
    return requests


def read_answers(
    requests: dict[str, dict[str, Any]], patterns: Iterable[str], allow_missing: bool
) -> list[AnsweredRequest]:
    """The requests with their responses, sorted by id: the order of shards does not matter.

    The last line of a shard may be torn, where its writer was killed; it is left out.

    Raises:
        InputError: no shard, a response that none of the requests asked for, or (unless
            `allow_missing`) a request without a response.
    """
    answers: dict[str, AnsweredRequest] = {}
    for path in _shards(patterns):
        for row in _whole_rows(path):
            request = requests.get(row["id"])
            if request is None:
                raise InputError(f"{path}: the response {row['id']} answers none of the --requests")
            finished = row.get("finish_reason") in ENDED
            answers.setdefault(row["id"], AnsweredRequest(request, row["output"], finished))
    missing = len(requests) - len(answers)
    if missing and not allow_missing:
        raise InputError(
            f"{missing:,} of {len(requests):,} requests have no response yet; start the generator "
            "again to complete them, or go on without them with --allow_missing"
        )
    return [answers[name] for name in sorted(answers)]


def _shards(patterns: Iterable[str]) -> list[Path]:
    paths: list[Path] = []
    for pattern in patterns:
        found = [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207
        if not found:
            raise InputError(f"--responses {pattern}: no such file")
        paths += found
    return paths


def _whole_rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise InputError(f"{path}: row {number} is malformed: {error}") from None
            if row is None:
                continue
            if not isinstance(row, dict) or not all(
                isinstance(row.get(field), str) for field in ("id", "output")
            ):
                raise InputError(f"{path}: row {number} is no response record")
            yield row
