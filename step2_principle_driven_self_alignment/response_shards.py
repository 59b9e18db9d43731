"""The files that a generation run writes its responses to: names, and the one reader.

A run named NAME (`--output_file NAME.jsonl`) consists of `NAME.manifest.json` and of shards. Each
launch of a group writes a shard of its own, which nobody else writes to, ever:
`NAME_{GROUP_SIZE}shards_{GROUP_RANK}.jsonl`, the next launch `….1.jsonl`, then `….2.jsonl`. One
response is one line, so a kill at any byte leaves at most the last line torn. Readers skip such a
line, and the next launch answers its prompt. A prompt that is answered twice counts once.

Beside each shard lies `SHARD.status.json` (`shard_writer.py`): how far its launch is, replaced
every few seconds, and the summary at the end.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prompt_file import LFS_POINTER, prompt_id_of
from user_error import UserError

SHARD_NAME = re.compile(
    r"(?P<name>.+)_(?P<size>[1-9]\d*)shards_(?P<rank>\d+)(\.(?P<launch>[1-9]\d*))?\.jsonl"
)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class ShardName(NamedTuple):
    """What a shard's path says; sorts in the order in which readers take the shards."""

    run: Path
    group_size: int
    group_rank: int
    launch: int

    @property
    def path(self) -> Path:
        launch = f".{self.launch}" if self.launch else ""
        name = f"{self.run.name}_{self.group_size}shards_{self.group_rank}{launch}.jsonl"
        return self.run.with_name(name)


def run_name(output_file: str | Path) -> Path:
    """The NAME that all files of a run begin with: the output file without `.jsonl`."""
    path = Path(output_file)
    return path.with_suffix("") if path.suffix == ".jsonl" else path


def shard_path(run: Path, group_size: int, group_rank: int, launch: int = 0) -> Path:
    """Where a launch of group `group_rank` of `group_size` groups writes its responses."""
    return ShardName(run, group_size, group_rank, launch).path


def manifest_path(run: Path) -> Path:
    """Where the run's manifest lies."""
    return run.with_name(f"{run.name}.manifest.json")


def status_path(shard: Path) -> Path:
    """Where the status of the launch that writes a shard lies."""
    return shard.with_suffix(".status.json")


def parse_shard_name(path: Path) -> ShardName | None:
    """What a shard's path says; None for any other file."""
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or int(match["rank"]) >= int(match["size"]):
        return None
    numbers = int(match["size"]), int(match["rank"]), int(match["launch"] or 0)
    return ShardName(path.with_name(match["name"]), *numbers)


def find_shards(run: Path) -> list[Path]:
    """All shards of a run, whatever group sizes wrote them, in their order."""
    if not run.parent.is_dir():
        return []
    names = filter(None, map(parse_shard_name, run.parent.iterdir()))
    return [name.path for name in sorted(names) if name.run == run]


class ResponseReader:
    """Reads the responses of several shards, each prompt's once: the first in the shards' order.

    After reading, `answered` holds the ids, `repeated` the number of further answers to them,
    `differing` how many of those were other texts, and `torn` the shards whose last line is torn.
    """

    def __init__(self, shards: list[Path]) -> None:
        self.shards = sorted(shards, key=lambda shard: parse_shard_name(shard) or ())
        self.repeated = 0
        self.differing = 0
        self.torn: list[Path] = []
        self._texts: dict[str, int] = {}  # id: hash of the answer that was taken

    @property
    def answered(self) -> set[str]:
        return set(self._texts)

    def read(self, on_bytes: Callable[[int], object] = int) -> Iterator[dict[str, Any]]:
        """Yields the records; `on_bytes` is told the sizes of the rows.

        Each has texts as `id`, `instruction`, `input` and `output`; one without `id` gets the hash
        of its prompt. Raises UserError with file and row for a row that is no response record.
        """
        for shard in self.shards:
            for record in self._read_shard(shard, on_bytes):
                text = hash((record["instruction"], record["input"], record["output"]))
                if record["id"] not in self._texts:
                    self._texts[record["id"]] = text
                    yield record
                else:
                    self.repeated += 1
                    self.differing += self._texts[record["id"]] != text

    def _read_shard(
        self, shard: Path, on_bytes: Callable[[int], object]
    ) -> Iterator[dict[str, Any]]:
        with shard.open("rb") as file:
            for row_number, line in enumerate(file, start=1):
                on_bytes(len(line))
                if not line.strip():
                    continue
                try:
                    yield _parse_response(line)
                except ValueError as error:
                    if not line.endswith(b"\n") and not line.startswith(LFS_POINTER):
                        self.torn.append(shard)
                        return
                    raise UserError(
                        f"{shard}, row {row_number}: not a response record: {error}"
                    ) from None


def finish_reasons(shards: list[Path]) -> dict[str, str]:
    """How each response in the shards ended, by prompt id."""
    return {row["id"]: str(row.get("finish_reason")) for row in ResponseReader(shards).read()}


def _parse_response(line: bytes) -> dict[str, Any]:
    if line.startswith(LFS_POINTER):
        raise ValueError("this is a Git LFS pointer, not the file; `git lfs pull` fetches it")
    record = json.loads(line.decode("utf-8-sig"))
    if SURROGATE.search(line):  # half a pair has no UTF-8 form, and no output could be written
        whole = json.dumps(record, ensure_ascii=False).encode(errors="replace")
        record = json.loads(whole)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    if isinstance(record.get("output"), dict):  # older files have {"generation": text}
        record["output"] = record["output"].get("generation")
    record["input"] = record.get("input") or ""
    for name in ("instruction", "input", "output"):
        if not isinstance(record.get(name), str):
            raise ValueError(f"`{name}` is not a text")
    if not isinstance(record.get("finish_reason"), str | None):
        raise ValueError("`finish_reason` is not a text")
    record["id"] = str(record.get("id") or prompt_id_of(record["instruction"], record["input"]))
    return record


def encode_row(record: dict[str, Any]) -> bytes:
    """A response record as a shard's line."""
    # A lone surrogate has no UTF-8 form; its backslash form is a JSON escape again.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
