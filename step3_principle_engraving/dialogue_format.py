"""The text format that is engraved: one place for training, the chat template, chat and evaluation.

    {meta_prompt}            a short system prompt whose last line is "### User"
    {instruction}

    {input}                  only where there is one

    ### Dromedary
    {output}{eos}

    ### User

A reply ends with the tokenizer's end-of-sequence token, at which every program stops, and then the
marker: a blank line and the heading of the next user turn. Further turns follow in the same way; in
training records they stand inside `output`, without the token.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engraving_command import UserError
from plain_files import read_text

USER_HEADING = "### User"
ASSISTANT_HEADING = "### Dromedary"
REPLY_CUE = f"\n\n{ASSISTANT_HEADING}\n"
END_MARKER = f"\n\n{USER_HEADING}\n"
STOP_STRING = f"\n\n{USER_HEADING}"
DEFAULT_META_PROMPTS = str(
    Path(__file__).resolve().parent.parent / "prompts" / "inference_prompts" / "*_distill.txt"
)

_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_HEADING_LINE = re.compile(r"(?:\A|\n)\s*### (User|Dromedary)[ \t]*(?:\n\s*|\Z)")


@dataclass(frozen=True)
class MetaPrompt:
    """A system prompt: its name (the file's stem) and its text without the final heading."""

    name: str
    system: str

    @property
    def text(self) -> str:
        return f"{self.system}\n\n{USER_HEADING}"


def load_meta_prompts(pattern: str) -> list[MetaPrompt]:
    """The meta-prompts of the files that match a glob pattern, sorted by file name.

    Raises UserError when nothing matches, and for a file that lacks the heading.
    """
    folder, name = Path(pattern).parent, Path(pattern).name
    paths = sorted(path for path in folder.glob(name) if path.is_file())
    if not paths:
        raise UserError(
            f"no meta-prompt matches '{pattern}'; give --meta_prompt_pattern the path of text files"
        )
    return [_read_meta_prompt(path) for path in paths]


def choose_meta_prompt(pattern: str, wanted: str) -> MetaPrompt:
    """The meta-prompt of a text file, or the first of the pattern with `wanted` in its name."""
    if Path(wanted).is_file():
        return _read_meta_prompt(Path(wanted))
    prompts = load_meta_prompts(pattern)
    for prompt in prompts:
        if wanted in prompt.name:
            return prompt
    names = ", ".join(prompt.name for prompt in prompts)
    raise UserError(f"no system prompt '{wanted}': --system takes a file or a word of {names}")


def _read_meta_prompt(path: Path) -> MetaPrompt:
    text = read_text(path).strip()
    if not text.endswith(USER_HEADING) or not text.removesuffix(USER_HEADING).strip():
        raise UserError(
            f"the meta-prompt {path} must hold a text and end with the line '{USER_HEADING}'"
        )
    return MetaPrompt(path.stem, text.removesuffix(USER_HEADING).strip())


def user_message(instruction: str, input_text: str = "") -> str:
    """What the user says: the instruction, and after a blank line the input where there is one."""
    return "\n\n".join(part for part in (instruction.strip(), input_text.strip()) if part)


def engraved_prompt(meta_prompt: MetaPrompt, message: str) -> str:
    """Everything up to the first word of the reply."""
    return f"{meta_prompt.text}\n{message}{REPLY_CUE}"


def split_turns(output: str, finished: bool) -> tuple[list[str], bool]:
    """Cuts the `output` of a training record into replies and the user's messages between them.

    The turns alternate, a reply first and last; none at all where the text opens with a heading.
    All replies but the last ended; the second value says whether that one did. `finished` says so
    too, or a marker at the very end of `output`, as in the published data set. A heading out of
    order, or an empty turn, ends the dialogue there.
    """
    pieces = _HEADING_LINE.split(output.strip())
    reply, turns = pieces[0].strip(), []
    headings = list(zip(pieces[1::2], pieces[2::2], strict=True))
    for index in range(0, len(headings), 2):
        pair = [(heading, text.strip()) for heading, text in headings[index : index + 2]]
        in_order = [heading for heading, _ in pair] == ["User", "Dromedary"]
        if not reply:
            return [], False
        if not in_order or not all(text for _, text in pair):
            return [*turns, reply], pair[0][0] == "User"
        turns += [reply, pair[0][1]]
        reply = pair[1][1]
    return ([*turns, reply], finished) if reply else ([], False)


def ends_with_marker(output: str) -> bool:
    """True where the text itself says that its last reply ended."""
    return output.rstrip().endswith(USER_HEADING)


def chat_template(default_system: str, *, bos: str, eos: str, special_tokens: Iterable[str]) -> str:
    """A Jinja chat template that renders exactly the training format.

    `default_system` is used where a conversation brings no system message. `bos` is what the base's
    tokenizer puts in front of a text, or empty: the rendered text is to be tokenised without adding
    any. Roles that the template doesn't know, turns out of order and content that is no text are
    errors; `special_tokens` that somebody spells in a message are broken up by a blank.
    """
    values = {
        "default_system": default_system,
        "bos": bos,
        "eos": eos,
        "special_tokens": list(special_tokens),
        "marker": END_MARKER,
        "cue": REPLY_CUE,
    }
    lines = _CHAT_TEMPLATE.read_text(encoding="utf-8").splitlines()
    text = "".join(line.strip() for line in lines)
    return re.sub("@(\\w+)@", lambda name: json.dumps(values[name[1]], ensure_ascii=False), text)
