"""The hand-written conversations about the assistant itself, as training records."""

import json
from pathlib import Path
from typing import Any

from prompt_file import prompt_id_of

SOURCE = "dummy"
SPEAKERS = ("human", "gpt")
# How further exchanges stand in `output`, in the format that step 3 engraves
NEXT_EXCHANGE = "\n\n### User\n{human}\n\n### Dromedary\n{gpt}"


def read_dummy_records(path: Path, assistant_name: str, developer: str) -> list[dict[str, Any]]:
    """Training records without `example_id` from ShareGPT conversations (.json or .jsonl).

    The first exchange becomes instruction and output; further ones follow inside `output`. Raises
    FileNotFoundError, or ValueError with file and row number for what is no conversation.
    """
    blanks = {
        "{assistant_name}": assistant_name,
        "{developer}": developer,
        "{developer_name}": proper_name(developer),
    }
    records: dict[str, dict[str, Any]] = {}
    for row_number, row in _read_rows(path):
        try:
            record = _training_record(row, blanks)
        except ValueError as error:
            raise ValueError(f"{path}, row {row_number}: {error}") from None
        if record["id"] in records:
            raise ValueError(f"{path}, row {row_number}: the id {record['id']!r} was there before")
        records[record["id"]] = record
    if not records:
        raise ValueError(f"{path} is empty: no conversations to add")
    return list(records.values())


def proper_name(developer: str) -> str:
    """The name without English words around it, for texts in other languages.

    "the Self-Align team" gives "Self-Align".
    """
    return developer.removeprefix("the ").removesuffix(" team")


def _read_rows(path: Path) -> list[tuple[int, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no such dummy data file: {path}")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        return [(row, _parse(line, f"{path}, row {row}")) for row, line in lines if line.strip()]
    rows = _parse(text, str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a JSON array; an object a line belongs in a .jsonl file")
    return list(enumerate(rows, start=1))


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: malformed JSON: {error}") from None


def _training_record(row: Any, blanks: dict[str, str]) -> dict[str, Any]:
    texts = [_fill(text, blanks) for text in _turn_texts(row)]
    instruction, output, *later = texts
    for human, gpt in zip(later[::2], later[1::2], strict=True):
        output += NEXT_EXCHANGE.format(human=human, gpt=gpt)
    return {
        "id": str(row.get("id") or prompt_id_of(instruction, "")),
        "instruction": instruction,
        "input": "",
        "output": output,
        "finished": True,
        "source": SOURCE,
    }


def _turn_texts(row: Any) -> list[str]:
    """The texts of the turns, checked to be exchanges of human and gpt."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise ValueError("no conversation: expected an object with a list `conversations`")
    for place, turn in enumerate(turns):
        wanted = SPEAKERS[place % 2]
        if not isinstance(turn, dict) or turn.get("from") != wanted:
            raise ValueError(f"turn {place + 1} is not from {wanted!r}; human and gpt take turns")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise ValueError(f"turn {place + 1} has no text as `value`")
    if len(turns) % 2:
        raise ValueError("the last turn is the human's; each conversation ends with a reply")
    return [turn["value"].strip() for turn in turns]


def _fill(text: str, blanks: dict[str, str]) -> str:
    for blank, value in blanks.items():
        text = text.replace(blank, value)
    return text
