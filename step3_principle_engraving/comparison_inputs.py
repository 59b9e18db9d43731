"""What a comparison asks, and what the base model answered with its principles.

Files: unseen prompts (`instruction`, `input`, `topic`: words), identity questions (`instruction`,
`names`: words), training records, and the response shards of step 2's generator.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from compared_models import PRINCIPLES_REPLY
from dialogue_format import (
    USER_HEADING,
    MetaPrompt,
    split_turns,
    user_message,
)
from engraving_command import UserError
from plain_files import read_rows, read_text
from reply_figures import Asked, Replies
from reply_generation import Reply
from training_records import TrainingRecord, read_training_records

logger = logging.getLogger(__name__)

ENDED = ("stop", "eos")  # finish reasons of a response that ended by itself


def read_asked(path: Path, wanted: str, limit: int | None) -> list[Asked]:
    """The prompts of a file with the words under `wanted` (`topic` or `names`)."""
    asked = []
    for number, row in enumerate(read_rows(path), start=1):
        words = row.get(wanted) if isinstance(row, dict) else None
        texts = [row.get("instruction"), row.get("input") or "", *words] if words else [None]
        if not isinstance(words, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{path}, row {number}: 'instruction' must be a text and '{wanted}' a list of words"
            )
        if not all(text.strip() for text in (texts[0], *words)):
            raise UserError(f"{path}, row {number}: 'instruction' or a word of '{wanted}' is empty")
        asked.append(Asked(texts[0], texts[1], tuple(words)))
    if not asked:
        raise UserError(f"{path} holds no prompts")
    return asked[:limit]


def read_held_out(path: Path, limit: int | None) -> list[TrainingRecord]:
    """Held-out training records that have a reply."""
    records = [record for record in read_training_records(path) if first_reply(record)]
    if not records:
        raise UserError(f"{path} holds no replies")
    return records[:limit]


def first_reply(record: TrainingRecord) -> str:
    """The reply of a record, without its end marker and later turns."""
    turns, _ = split_turns(record.output, record.finished)
    return turns[0] if turns else ""


def read_neutral_system(path: Path) -> MetaPrompt:
    """A system prompt as plain text; the heading of the user's turn may stand at its end."""
    text = read_text(path).strip().removesuffix(USER_HEADING).strip()
    if not text:
        raise UserError(f"the system prompt {path} is empty")
    return MetaPrompt(path.stem, text)


def refuse_seen_prompts(
    training_file: Path, files: dict[Path | None, Sequence[Asked | TrainingRecord]]
) -> None:
    """Raises UserError for a prompt that training saw, however it is spaced or capitalised."""
    seen = {
        _key(record): n for n, record in enumerate(read_training_records(training_file), start=1)
    }
    for path, asked in files.items():
        known = [(number, item) for number, item in enumerate(asked, start=1) if _key(item) in seen]
        if known:
            number, item = known[0]
            raise UserError(
                f"{path}, prompt {number}: '{item.instruction[:60]}' is row {seen[_key(item)]} of "
                f"{training_file} ({len(known)} such prompts): figures over prompts that training "
                "saw show memory. Take them out of one of the two files"
            )


def read_principle_replies(
    patterns: Sequence[str], unseen: Sequence[Asked], identity: Sequence[Asked]
) -> Replies:
    """The base model's replies with principles, from response shards of step 2's generator.

    The identity questions may be left out altogether. Raises UserError for a prompt without a
    response.
    """
    responses: dict[str, dict] = {}
    for path in sorted({path for pattern in patterns for path in _matching(pattern)}):
        for row in _responses(path):
            responses.setdefault(_key_of(row["instruction"], row.get("input") or ""), row)
    answered = [item for item in identity if _key(item) in responses]
    if not answered:
        logger.warning("no response to an identity question: not measured with principles")
    wanted = [*unseen, *(identity if answered else [])]
    if missing := [item.instruction for item in wanted if _key(item) not in responses]:
        raise UserError(
            f"{len(missing)} of {len(wanted)} prompts have no response in {', '.join(patterns)}, "
            f"'{missing[0][:60]}' for one; run step 2's generator on the same file"
        )
    replies = [_as_reply(responses[_key(item)]) for item in wanted]
    return Replies(replies[: len(unseen)], replies[len(unseen) :])


def _matching(pattern: str) -> list[Path]:
    folder, name = Path(pattern).parent, Path(pattern).name
    paths = [path for path in folder.glob(name) if path.is_file()]
    if not paths:
        raise UserError(f"no response shard matches '{pattern}'")
    return paths


def _responses(path: Path) -> Iterator[dict]:
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                continue  # cut off by a kill; the next launch answers it again
            raise UserError(f"{path}, row {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("output"), str):
            raise UserError(f"{path}, row {number}: not a response record of step 2's generator")
        yield row


def _as_reply(row: dict) -> Reply:
    """The reply in a response: what follows its marker; without one, nothing was replied."""
    _, marker, text = row["output"].partition("\n" + PRINCIPLES_REPLY.strip())
    return Reply.of_text(text, at_end=bool(marker) and row.get("finish_reason") in ENDED)


def _key(item: Asked | TrainingRecord) -> str:
    return _key_of(item.instruction, item.input)


def _key_of(instruction: str, input_text: str) -> str:
    return " ".join(user_message(instruction, input_text).casefold().split())
