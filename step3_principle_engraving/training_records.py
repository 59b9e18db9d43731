"""The records that the merge hands to fine-tuning, from .json, .jsonl or .parquet.

Fields: `instruction`, `output`, and where present `input`, `example_id`, `finished`. Other fields
are ignored here. A file without `finished`, such as the published data set, marks a finished reply
by the heading of the next user turn at the end of `output`.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from dialogue_format import ends_with_marker
from engraving_command import UserError
from plain_files import read_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRecord:
    """One example: what the user says, what the assistant should say, and whether that text is
    whole.
    """

    example_id: int
    instruction: str
    input: str
    output: str
    finished: bool


def read_training_records(path: Path) -> list[TrainingRecord]:
    """All records of a file, in file order. Raises UserError with file and row for what is none."""
    records, says_ends = [], False
    for number, row in enumerate(read_rows(path), start=1):
        records.append(_as_record(row, number, path))
        says_ends = says_ends or records[-1].finished or _value(row, "finished") is not None
    if not records:
        raise UserError(f"{path} holds no records")
    if not says_ends:
        logger.warning(
            "%s has neither a field 'finished' nor end markers: every reply is taken as finished",
            path,
        )
        records = [dataclasses.replace(record, finished=True) for record in records]
    return records


def _as_record(row: object, number: int, path: Path) -> TrainingRecord:
    where = f"{path}, row {number}"
    if not isinstance(row, dict):
        raise UserError(f"{where}: a record must be an object, not {row!r:.60}")
    texts = {name: _value(row, name) for name in ("instruction", "output")}
    texts["input"] = _value(row, "input") or ""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{where}: the field '{name}' must be a text, not {text!r:.60}")
    finished, example_id = _value(row, "finished"), _value(row, "example_id")
    if finished is None:
        finished = ends_with_marker(texts["output"])
    if example_id is None:
        example_id = number
    if isinstance(example_id, float) and example_id.is_integer():  # a column with gaps, by pandas
        example_id = int(example_id)
    is_number = isinstance(example_id, int) and not isinstance(example_id, bool)
    if not isinstance(finished, bool) or not is_number:
        raise UserError(
            f"{where}: 'finished' must be true or false and 'example_id' a whole number, "
            f"not {finished!r:.40} and {example_id!r:.40}"
        )
    return TrainingRecord(example_id, finished=finished, **texts)


def _value(row: dict, name: str) -> object:
    value = row.get(name)
    return None if value != value else value  # NaN is what tables have for a missing value
