"""Who the assistant is: hand-written conversations about it, and its name in generated replies."""

import re
from pathlib import Path
from typing import Any

from prompt_file import prompt_id_of, read_rows
from training_file import seeded_key
from user_error import UserError

DUMMY_DATA = Path(__file__).resolve().parent.parent / "dummy_data" / "vicuna_dummy_data.json"
SOURCE = "dummy"
SPEAKERS = ("human", "gpt")
HEADING_LINE = re.compile(r"^[ \t]*### (?:User|Dromedary)[ \t]*$", re.MULTILINE)
# How further exchanges stand in `output`, in the format that step 3 engraves
NEXT_EXCHANGE = "\n\n### User\n{human}\n\n### Dromedary\n{gpt}"

LATIN = "A-Za-z0-9_À-ÖØ-öø-ɏ"
MENTION = rf"(?<![{LATIN}@/.-]){{}}(?![{LATIN}@/]|\.[{LATIN}])"
ANOTHER_SUBJECT = re.compile(r"\b(?:Holmes|Sherlock|Crick|IBM|Jeopardy)\b")
INTRODUCTION = re.compile(
    r"(?:\bI am|\bI['’]m|\b[Mm]y name is|\b[Cc]all me|\b[Ii]ch bin|\b[Ii]ch heiße|\b[Jj]e suis|"
    r"\b[Jj]e m['’]appelle|\b[Ss]oy|\b[Mm]e llamo|\b[Ss]ono|\b[Mm]i chiamo|\b[Ss]ou|我是|我叫|私は|"
    r"저는|[Яя]|зовут)[\s*_\"'“«—-]*\Z"
)
TITLED_BEFORE = re.compile(r"(?:\b([A-Z][\w'’-]*)|\b[A-Z]\.|\b(?:Dr|Mr|Mrs|Ms|Prof|St)\.)[ \xa0]\Z")
JOINED_BEFORE = re.compile(r"\b[A-Z][\w'’-]+(?: (?:and|&) |[-–/&])\Z")
NAME_BEHIND = re.compile(r"(?: (?:and|&) | |[-–/&])[A-Z][a-z]")
# Capitalised because they open a sentence, not because they are part of a name
OPENERS = """
A Also Although An And Any As Ask At Both But By Call Can Could Dear Did Do Does For From Good
Has Hello Hence Here Hey Hi How However I I'm I’m If In Is It Its Just Let Like Meet My No Nor
Note Now Of On Only Or Our Perhaps Please Remember Since So Sorry Still Thank Thanks That The
Then Therefore This Though Through Thus To Unlike Use Using Was What When Where Which While Who
Why Will With Would Yes Yet You Your
"""


def read_dummy_records(path: Path, assistant_name: str, developer: str) -> list[dict[str, Any]]:
    """Training records without `example_id` from ShareGPT conversations in a file of rows.

    The first exchange becomes instruction and output; further ones follow inside `output`. Raises
    UserError with file and row number for what is no conversation.
    """
    blanks = {
        "{assistant_name}": assistant_name,
        "{developer}": developer,
        "{developer_name}": proper_name(developer),
    }
    records: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        raise UserError(f"no such dummy data file: {path} (--dummy_data_file)")
    for row_number, row in read_rows(path):
        try:
            record = _training_record(row, blanks)
        except UserError as error:
            raise UserError(f"{path}, row {row_number}: {error}") from None
        if record["id"] in records:
            raise UserError(f"{path}, row {row_number}: the id {record['id']!r} is not the first")
        records[record["id"]] = record
    if not records:
        raise UserError(f"{path} is empty: no conversations to add (--dummy_data_file)")
    return list(records.values())


def proper_name(developer: str) -> str:
    """The name without English words around it, for texts in other languages.

    "the Self-Align team" gives "Self-Align".
    """
    return developer.removeprefix("the ").removesuffix(" team")


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
        "principles": [],
    }


def draw_share(
    dummy_records: list[dict[str, Any]], responses: int, share: float, seed: int
) -> list[dict[str, Any]]:
    """As many of the records, drawn by seed and id, as make at most this share with the responses.

    `share`: from 0 to 1, of all training records.
    """
    if share >= 1:
        return dummy_records
    wanted = int(share / (1 - share) * responses + 1e-9)
    return sorted(dummy_records, key=lambda record: seeded_key(seed, record["id"]))[:wanted]


def _turn_texts(row: Any) -> list[str]:
    """The texts of the turns, checked to be exchanges of human and gpt."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise UserError("no conversation: expected an object with a list `conversations`")
    for place, turn in enumerate(turns):
        wanted = SPEAKERS[place % 2]
        if not isinstance(turn, dict) or turn.get("from") != wanted:
            raise UserError(f"turn {place + 1} is not from {wanted!r}; human and gpt take turns")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise UserError(f"turn {place + 1} has no text as `value`")
        heading = HEADING_LINE.search(turn["value"])
        if heading:
            raise UserError(
                f"turn {place + 1} has a line {heading[0].strip()!r}, which opens a turn in "
                "training; write it as two turns"
            )
    if len(turns) % 2:
        raise UserError("the last turn is the human's; each conversation ends with a reply")
    return [turn["value"].strip() for turn in turns]


def _fill(text: str, blanks: dict[str, str]) -> str:
    for blank, value in blanks.items():
        text = text.replace(blank, value)
    return text


def name_assistant(reply: str, prompt: str, name: str, codename: str) -> str:
    """The reply with the assistant's name where it speaks of itself under its codename.

    Others of that name keep it. A reply is about another Watson if its prompt says "Watson", if
    either speaks of Holmes, Crick, IBM or Jeopardy, or if the reply has "Watson" next to another
    name ("Dr. Watson", "Emma Watson", "Watson Street", "Watson and Crick"). In such a reply only
    self-introductions ("I am Watson") get the real name; in all others every "Watson" does.
    """
    if codename not in reply:
        return reply
    mention = re.compile(MENTION.format(re.escape(codename)))
    if not _is_about_another(reply, prompt, mention):
        return mention.sub(lambda _: name, reply)
    return mention.sub(lambda found: name if _introduces(reply, found) else found[0], reply)


def _is_about_another(reply: str, prompt: str, mention: re.Pattern[str]) -> bool:
    if mention.search(prompt) or ANOTHER_SUBJECT.search(prompt) or ANOTHER_SUBJECT.search(reply):
        return True
    return any(
        _stands_by_a_name(reply, found) and not _introduces(reply, found)
        for found in mention.finditer(reply)
    )


def _introduces(reply: str, mention: re.Match[str]) -> bool:
    return bool(INTRODUCTION.search(reply[max(mention.start() - 40, 0) : mention.start()]))


def _stands_by_a_name(reply: str, mention: re.Match[str]) -> bool:
    return bool(
        follows_a_name(reply, mention.start())
        or JOINED_BEFORE.search(reply[max(mention.start() - 40, 0) : mention.start()])
        or NAME_BEHIND.match(reply, mention.end())
    )


def follows_a_name(text: str, place: int) -> bool:
    """Whether a title or a first name stands before the word at this place."""
    titled = TITLED_BEFORE.search(text[max(place - 40, 0) : place])
    return titled is not None and titled[1] not in OPENERS.split()
