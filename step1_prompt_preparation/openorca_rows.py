"""OpenOrca rows as they lie in parquet: checked and filtered a batch at a time, not row by row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from input_errors import InputError
from prompt_sources import PromptSource, read_column_batches

COLLECTIONS = ("niv", "flan", "t0", "cot")
ROWS_PER_BATCH = 16384

# Natural-language inference: "Premise:" and "Hypothesis 2:" as labels, at the start of a line or
# behind a sentence; both words with a colon anywhere; the answer option that only such tasks have.
_LABEL = r"""(?:premise|hypothesis)[ \t]*\d*["'*\])>}]{0,3}[ \t]*:"""
NLI_PATTERN = (
    rf"""(?is)(?:^|[\n.!?:;"'(\[{{<|*])[ \t]*{_LABEL}"""
    r"|premise[^\n:]{0,3}:.*hypothesis[^\n:]{0,3}:"
    r"|[\[<{](?:premise|hypothesis)[\]>}]"
    r"|it is not possible to tell"
)


@dataclass(frozen=True)
class OpenOrcaBatch:
    """Some rows: which collection each is of, its question as UTF-8, and which rules it breaks."""

    collections: np.ndarray  # [rows], index into COLLECTIONS
    offsets: np.ndarray  # [rows + 1], bytes into `data`
    data: memoryview
    missing: np.ndarray  # [rows] bool: no question
    inference: np.ndarray  # [rows] bool: a natural-language-inference task
    characters: np.ndarray  # [rows]

    def question(self, row: int) -> bytes:
        """The question's bytes."""
        return bytes(self.data[self.offsets[row] : self.offsets[row + 1]])


def read_openorca(sources: Sequence[PromptSource]) -> Iterator[OpenOrcaBatch]:
    """Reads ids and questions, column by column.

    Raises:
        InputError: an id of an unknown collection (names file and row), or a missing column.
    """
    for source in sources:
        first_row = 1
        for batch in read_column_batches(source, ("id", "question"), ROWS_PER_BATCH):
            ids = _as_text(batch.column(0), "id", source.name)
            questions = _as_text(batch.column(1), "question", source.name)
            yield _checked(ids, questions, source.name, first_row)
            first_row += batch.num_rows


def is_inference_task(questions: pa.Array) -> np.ndarray:
    """Which questions are natural-language-inference tasks; False for a missing one."""
    return _mask(pc.match_substring_regex(questions, NLI_PATTERN))


def _mask(values: pa.Array) -> np.ndarray:
    return values.fill_null(False).to_numpy(zero_copy_only=False)


def _as_text(column: pa.Array, name: str, source: str) -> pa.Array:
    column_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = any(
        check(column_type)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
    if not is_text:
        raise InputError(f"{source}: the column {name!r} holds {column_type}, not text")
    return column.cast(pa.large_string())


def _checked(ids: pa.Array, questions: pa.Array, source: str, first_row: int) -> OpenOrcaBatch:
    collections = np.full(len(ids), -1)
    for number, name in enumerate(COLLECTIONS):
        collections[_mask(pc.starts_with(ids, f"{name}."))] = number
    if (collections < 0).any():
        row = int(np.argmin(collections))
        raise InputError(
            f"{source}: row {first_row + row} has the id {ids[row].as_py()!r}, of none of the "
            f"collections {', '.join(COLLECTIONS)} (their ids look like niv.242684)"
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
