"""A uniform sample of each OpenOrca collection, the same for any order of the rows.

Each prompt has a seeded hash. A collection's sample is the prompts with the smallest hashes that
pass the rules. So only those are kept in memory and tokenised that are about to be drawn: a window
of the smallest hashes. Where too few in it pass, the rows are read again for the next window.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from command_line import InputError
from inference_tasks import is_inference_task
from normalized_text import normalized_key
from prompt_collections import OPENORCA
from prompt_output import PromptOutput
from prompt_records import prompt_record
from prompt_sources import PromptSource, read_column_batches
from token_lengths import TokenCounter

ROWS_PER_BATCH = 16384
WINDOW_FACTOR = 3  # candidates held for each prompt wanted
LEAST_CHUNK = 256
LAST_DIGEST = b"\xff" * 33  # above any


@dataclass(frozen=True)
class OpenOrcaBatch:
    """Some rows: which collection each is of, its question as UTF-8, and which rules it breaks."""

    collections: np.ndarray  # [rows], index into OPENORCA
    offsets: np.ndarray  # [rows + 1], bytes into `data`
    data: memoryview
    missing: np.ndarray  # [rows] bool: no question
    inference: np.ndarray  # [rows] bool: a natural-language-inference task
    characters: np.ndarray  # [rows]

    def question(self, row: int) -> bytes:
        """The question's bytes."""
        return bytes(self.data[self.offsets[row] : self.offsets[row + 1]])


RowReader = Callable[[], Iterable[OpenOrcaBatch]]


def read_openorca(sources: Sequence[PromptSource]) -> Iterator[OpenOrcaBatch]:
    """Reads ids and questions, column by column, a batch ahead of the work on them.

    Raises:
        InputError: an id of an unknown collection (names file and row), or a missing column.
    """
    batches = _checked_batches(sources)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            yield batch


@dataclass(frozen=True)
class SamplingRules:
    """How many prompts of each collection, of how many tokens at most."""

    samples: int
    max_tokens: int
    seed: int


class CandidateWindow:
    """The `capacity` prompts with the smallest digests above `floor`, and how often each occurs."""

    def __init__(self, capacity: int, floor: bytes) -> None:
        self.capacity = capacity
        self.floor = floor
        self.ceiling = LAST_DIGEST  # nothing above it can be in the window
        self.prompts: dict[bytes, list] = {}  # digest -> [text, copies]

    def add(self, digest: bytes, text: bytes) -> None:
        """Takes in a prompt whose digest is above the floor and up to the ceiling."""
        if digest in self.prompts:
            self.prompts[digest][1] += 1
            return
        self.prompts[digest] = [text, 1]
        if len(self.prompts) >= 2 * self.capacity:
            self._shrink()

    def in_order(self) -> list[tuple[bytes, bytes, int]]:
        """(digest, text, copies), the smallest digest first."""
        if len(self.prompts) > self.capacity:
            self._shrink()
        return [(digest, *self.prompts[digest]) for digest in sorted(self.prompts)]

    @property
    def holds_all(self) -> bool:
        """Whether no prompt above the floor was left out."""
        return self.ceiling == LAST_DIGEST

    def _shrink(self) -> None:
        smallest = sorted(self.prompts)[: self.capacity]
        self.ceiling = smallest[-1]
        self.prompts = {digest: self.prompts[digest] for digest in smallest}


class OpenOrcaSampler:
    """Draws the sample; every row is counted in the output's report."""

    def __init__(self, rules: SamplingRules, counter: TokenCounter, output: PromptOutput) -> None:
        self.rules = rules
        self.counter = counter
        self.output = output
        self.drawn: dict[str, list[tuple[str, int]]] = {name: [] for name in OPENORCA}
        self.seen: set[bytes] = set()  # normalised keys of the drawn prompts

    def draw(self, read_batches: RowReader) -> tuple[list[dict], list[int]]:
        """Returns records and their token counts; calls `read_batches` once per window."""
        capacity = max(LEAST_CHUNK, WINDOW_FACTOR * self.rules.samples)
        windows = {name: CandidateWindow(capacity, b"") for name in OPENORCA}
        self._fill(windows, read_batches(), first_time=True)
        while windows:
            for name, window in windows.items():
                self._judge(name, window.in_order())
            windows = {
                name: CandidateWindow(capacity, window.ceiling)
                for name, window in windows.items()
                if not window.holds_all and len(self.drawn[name]) < self.rules.samples
            }
            if windows:
                self._fill(windows, read_batches())
        self._count_not_drawn()
        return self._records()

    def _count(self, batch: OpenOrcaBatch, too_long: np.ndarray) -> None:
        """Reports what was read and what is dropped by its row alone."""
        for number, name in enumerate(OPENORCA):
            rows = int(np.count_nonzero(batch.collections == number))
            if rows:
                self.output.report.read[source_name(name)] += rows
        for reason, dropped in (
            ("no_text", batch.missing),
            ("natural_language_inference", batch.inference),
            ("too_long", too_long & ~batch.inference),
        ):
            for row in np.flatnonzero(dropped).tolist():
                name = OPENORCA[batch.collections[row]]
                self.output.drop(source_name(name), reason, partial(batch.question, row))

    def _too_long(self, batch: OpenOrcaBatch) -> np.ndarray:
        """Which questions have too many characters for any tokenisation."""
        limit = self.rules.max_tokens
        too_long = batch.characters > limit * self.counter.longest_piece
        for row in np.flatnonzero(too_long).tolist():
            text = batch.question(row).decode(errors="replace")
            too_long[row] = self.counter.surely_longer(text, limit)
        return too_long

    def _fill(
        self,
        windows: dict[str, CandidateWindow],
        batches: Iterable[OpenOrcaBatch],
        first_time: bool = False,
    ) -> None:
        by_number = [windows.get(name) for name in OPENORCA]
        seeded = hashlib.sha256(b"%d\0" % self.rules.seed)
        for batch in batches:
            too_long = self._too_long(batch)
            if first_time:
                self._count(batch, too_long)
            eligible = ~(batch.missing | batch.inference | too_long)
            offsets, numbers, data = batch.offsets.tolist(), batch.collections.tolist(), batch.data
            for row in np.flatnonzero(eligible).tolist():
                window = by_number[numbers[row]]
                if window is None:
                    continue
                text = data[offsets[row] : offsets[row + 1]]
                hashed = seeded.copy()
                hashed.update(text)
                digest = hashed.digest()
                if window.floor < digest <= window.ceiling:
                    window.add(digest, bytes(text))

    def _judge(self, name: str, candidates: list[tuple[bytes, bytes, int]]) -> None:
        """Draws from the candidates in order until the collection has enough."""
        drawn, start = self.drawn[name], 0
        while start < len(candidates) and len(drawn) < self.rules.samples:
            size = max(LEAST_CHUNK, (self.rules.samples - len(drawn)) * 5 // 4)
            chunk = candidates[start : start + size]
            start += size
            texts = [_decoded(text) for _, text, _ in chunk]
            lengths = self.counter.count_in_dialogue(
                [text or "" for text in texts], self.rules.max_tokens
            )
            for text, length, (_, raw, copies) in zip(texts, lengths, chunk, strict=True):
                if len(drawn) == self.rules.samples:
                    return
                reason = self._reason_against(text, length)
                if reason is None:
                    drawn.append((text, length))
                for _ in range(copies - (reason is None)):
                    self.output.drop(source_name(name), reason or "duplicate", lambda r=raw: r)

    def _reason_against(self, text: str | None, length: int) -> str | None:
        if text is None:
            return "invalid_unicode"
        if not text:
            return "empty"
        if length > self.rules.max_tokens:
            return "too_long"
        key = normalized_key(text)
        if key in self.seen:
            return "duplicate"
        self.seen.add(key)
        return None

    def _count_not_drawn(self) -> None:
        report = self.output.report
        for name in OPENORCA:
            source = source_name(name)
            dropped = sum(
                n for (dropped_from, _), n in report.dropped.items() if dropped_from == source
            )
            left = report.read[source] - dropped - len(self.drawn[name])
            if left:
                report.dropped[source, "not_drawn"] = left

    def _records(self) -> tuple[list[dict], list[int]]:
        drawn = [
            (prompt_record(text, source_name(name)), length)
            for name in OPENORCA
            for text, length in self.drawn[name]
        ]
        return [record for record, _ in drawn], [length for _, length in drawn]


def source_name(collection: str) -> str:
    """The `source` of a collection's records."""
    return f"openorca/{collection}"


def _checked_batches(sources: Sequence[PromptSource]) -> Iterator[OpenOrcaBatch]:
    for source in sources:
        first_row = 1
        for batch in read_column_batches(source, ("id", "question"), ROWS_PER_BATCH):
            ids = _as_text(batch.column(0), "id", source.name)
            questions = _as_text(batch.column(1), "question", source.name)
            yield _checked(ids, questions, source.name, first_row)
            first_row += batch.num_rows


def _mask(values: pa.Array) -> np.ndarray:
    return values.fill_null(False).to_numpy(zero_copy_only=False)


def _as_text(column: pa.Array, name: str, source: str) -> pa.Array:
    column_type: Any = column.type
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    types = pa.types
    is_text = any(
        check(column_type)
        for check in (types.is_string, types.is_large_string, types.is_string_view)
    )
    if not is_text:
        raise InputError(f"{source}: the column {name!r} holds {column_type}, not text")
    return column.cast(pa.large_string())


def _checked(ids: pa.Array, questions: pa.Array, source: str, first_row: int) -> OpenOrcaBatch:
    collections = np.full(len(ids), -1)
    for number, name in enumerate(OPENORCA):
        collections[_mask(pc.starts_with(ids, f"{name}."))] = number
    if (collections < 0).any():
        row = int(np.argmin(collections))
        raise InputError(
            f"{source}: row {first_row + row} has the id {ids[row].as_py()!r}, of none of the "
            f"collections {', '.join(OPENORCA)} (their ids look like niv.242684)"
        )
    _, offsets, data = questions.buffers()
    first = questions.offset
    return OpenOrcaBatch(
        collections=collections,
        offsets=np.frombuffer(offsets, np.int64)[first : first + len(questions) + 1],
        data=memoryview(data) if data else memoryview(b""),
        missing=_mask(questions.is_null()),
        inference=is_inference_task(questions),
        characters=pc.utf8_length(questions).fill_null(0).to_numpy(),
    )


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode().strip()
    except UnicodeDecodeError:
        return None
