"""The text format that is engraved: one place for training, the chat template, chat and evaluation.

    {meta_prompt}            a short system prompt whose last line is "### User"
    {instruction}

    {input}                  only where there is one

    ### Dromedary
    {output}

    ### User

A reply ends with the marker, a blank line and the heading of the next user turn. Further turns
follow in the same way, inside `output`.
"""

import re
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

_HEADING_LINE = re.compile(r"(?:\A|\n)\s*### (User|Dromedary)[ \t]*(?:\n\s*|\Z)")


@dataclass(frozen=True)
class Turn:
    """One stretch of a dialogue. Learned text carries loss; the user's own words carry none."""

    text: str
    learned: bool


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


def split_turns(output: str, finished: bool) -> tuple[list[Turn], bool]:
    """Cuts the `output` of a training record into replies (learned) and the user turns between
    them.

    The last turn is a reply without its end marker; the second value says whether that reply ended.
    `finished` says so too, or a marker at the very end of `output`, as in the published data set.
    Earlier replies keep their markers, so the model learns to stop. Headings out of order end the
    dialogue there.
    """
    pieces = _HEADING_LINE.split(output.strip())
    reply, turns = pieces[0].strip(), []
    headings = list(zip(pieces[1::2], pieces[2::2], strict=True))
    for index in range(0, len(headings), 2):
        pair = headings[index : index + 2]
        if [heading for heading, _ in pair] != ["User", "Dromedary"]:
            return [*turns, Turn(reply, True)], pair[0][0] == "User"
        turns.append(Turn(reply + END_MARKER, True))
        turns.append(Turn(pair[0][1].strip() + REPLY_CUE, False))
        reply = pair[1][1].strip()
    return [*turns, Turn(reply, True)], finished


def ends_with_marker(output: str) -> bool:
    """True where the text itself says that its last reply ended."""
    return output.rstrip().endswith(USER_HEADING)


def chat_template(default_system: str) -> str:
    """A Jinja chat template that renders exactly the training format.

    `default_system` is used where a conversation brings no system message. It puts the
    beginning-of- sequence token in front, as chat templates do, so the text is to be tokenised
    without adding another.
    """
    quoted = default_system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return (
        "{{- bos_token }}"
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] | trim %}{%- set turns = messages[1:] %}"
        "{%- else %}"
        f"{{%- set system = '{quoted}' %}}{{%- set turns = messages %}}"
        "{%- endif %}"
        "{{- system }}"
        "{%- for message in turns %}"
        "{%- if message['role'] == 'user' %}"
        f"{{{{- '\\n\\n{USER_HEADING}\\n' + message['content'] | trim }}}}"
        "{%- elif message['role'] == 'assistant' %}"
        f"{{{{- '\\n\\n{ASSISTANT_HEADING}\\n' + message['content'] | trim }}}}"
        "{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}"
        f"{{{{- '\\n\\n{ASSISTANT_HEADING}\\n' }}}}"
        "{%- elif turns and turns[-1]['role'] == 'assistant' %}"
        f"{{{{- '\\n\\n{USER_HEADING}\\n' }}}}"
        "{%- endif %}"
    )
