"""How the dialogue of a prompt file goes: where the model takes over, and where its reply ends.

Beside a prompt file `NAME.txt` may lie `NAME.format.toml`, with the fields of `PromptFormat`.
Without one, the dialogue is that of the self-align prompt.
"""

import re
import tomllib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from hand_written_text import read_text
from user_error import UserError

RULES = ("self_align", "none")
NEVER = r"(?!)"


@dataclass(frozen=True)
class PromptFormat:
    """The dialogue of one prompt file; the defaults are the self-align prompt's.

    `rules`: by which the generator gives up early and the merge decides; `none`: no response is
    given up, and the merge is not for them.
    """

    ends_with: str = "User:"  # how the prompt file ends, so that the user's words can follow
    before: str = " "  # stands between the prompt and the user's words
    cue: str = "\n\nWatson (internal thoughts):"  # follows the user's words; the model goes on
    reply_marker: str = "\nWatson:"  # opens the reply; empty: all is reply
    end_marker: str = "\nUser:"  # ends the response; empty: end-of-sequence or the limit does
    rules: str = "self_align"
    forbid_eos: bool = False  # end-of-sequence gets no probability
    after_bos: bool = False  # the prompt stands behind <s> as in a chat template, without a blank

    @property
    def codename(self) -> str:
        """The name that the assistant bears in the prompt."""
        return self.reply_marker.strip().removesuffix(":")

    @cached_property
    def next_turn(self) -> re.Pattern[str]:
        """Opens a turn after the reply, and so ends the reply.

        That is the user's next turn or, where a model goes on talking to itself, a further one of
        the codename: `Watson:` or `Watson (…):` at the start of a line.
        """
        if not self.end_marker:  # nothing but end-of-sequence or a limit ends it
            return re.compile(NEVER)
        markers = [re.escape(marker) for marker in (self.end_marker, self.reply_marker) if marker]
        if self.reply_marker.endswith(":"):
            markers.append(rf"\n{re.escape(self.codename)} ?\([^()\n]*\):")
        return re.compile("|".join(markers))

    @cached_property
    def begun_turn(self) -> re.Pattern[str]:
        """The end of a text that may become a `next_turn`, though words of it are whole already."""
        return re.compile(rf"\n{re.escape(self.codename)}(?: ?(?:\([^()\n]*\)?)?)?\Z")

    def own_part(self, instruction: str, input_text: str) -> str:
        """What follows the prompt for one user prompt, up to where the model takes over."""
        return self.before + joined_prompt(instruction, input_text) + self.cue


SELF_ALIGN = PromptFormat()


def format_path(prompt_file: Path) -> Path:
    """Where the format of a prompt file lies, if it has one."""
    return prompt_file.with_suffix(".format.toml")


def read_prompt_format(prompt_file: Path) -> PromptFormat:
    """The dialogue of a prompt file; UserError naming the field where its format is no good."""
    path = format_path(prompt_file)
    if not path.exists():
        return SELF_ALIGN
    try:
        content = tomllib.loads(read_text(path, "the format of --prompt_file"))
        return _checked_format(content)
    except ValueError as error:  # a TOMLDecodeError is one
        raise UserError(f"{path}: {error}") from None


def _checked_format(content: dict[str, Any]) -> PromptFormat:
    known = {field.name: field.type for field in fields(PromptFormat)}
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"unknown field {name!r}; the fields are {', '.join(known)}")
        if type(value) is not known[name]:
            wanted = "true or false" if known[name] is bool else "a text in quotes"
            raise ValueError(f"{name} is {value!r}; give {wanted}")
    optional = {"reply_marker": "", "end_marker": "", "after_bos": False}
    missing = [name for name in known if name not in content and name not in optional]
    if missing:
        raise ValueError(f"no field {missing[0]!r}; only {', '.join(optional)} may be left out")
    found = PromptFormat(**{**optional, **content})
    if found.rules not in RULES:
        raise ValueError(f"rules is {found.rules!r}; give {' or '.join(map(repr, RULES))}")
    if found.rules == "self_align":
        for name in ("reply_marker", "end_marker"):
            if not getattr(found, name).strip():
                raise ValueError(f"{name} is empty, and the rules of 'self_align' look for it")
        if found.forbid_eos:
            raise ValueError("forbid_eos needs rules = 'none'; a reply must be able to end")
    return found


def joined_prompt(instruction: str, input_text: str) -> str:
    """The user's words: the instruction, and after a blank line the input where there is one."""
    return "\n\n".join(part for part in (instruction, input_text) if part)
