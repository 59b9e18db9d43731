"""The texts and thresholds that the filter's rules use, and their flags."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hand_written_text import read_text
from prompt_format import SELF_ALIGN, PromptFormat
from user_error import UserError

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"


@dataclass(frozen=True)
class FilterSettings:
    """The texts and thresholds that the rules use."""

    required_opening: str
    blacklist: dict[str, str] = field(default_factory=dict)  # phrase: example it comes from
    min_length: int = 160
    max_prompt_echo: int = 16
    loop_words: int = 80
    max_repeated_share: float = 0.5
    published_rules: bool = False
    dialogue: PromptFormat = SELF_ALIGN

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Adds the flags that `from_arguments` reads."""
        group = parser.add_argument_group("filter rules")
        group.add_argument(
            "--required_opening_file",
            type=Path,
            default=PROMPTS / "required_opening.txt",
            help="the sentence that the thoughts must open with (default: %(default)s)",
        )
        group.add_argument(
            "--blacklist_file",
            type=Path,
            default=PROMPTS / "exemplar_blacklist.txt",
            help="phrases of the worked examples, one a line (default: %(default)s)",
        )
        group.add_argument(
            "--min_length",
            type=number(int, 0),
            default=FilterSettings.min_length,
            help="characters of a reply; a CJK character counts as three (default: %(default)s)",
        )
        group.add_argument(
            "--max_prompt_echo",
            type=number(int, 0),
            default=FilterSettings.max_prompt_echo,
            help="characters of an instruction or input that a reply may contain whole "
            "(default: %(default)s)",
        )
        group.add_argument(
            "--loop_words",
            type=number(int, 10),
            default=FilterSettings.loop_words,
            help="words in a row without a new n-gram that make a loop (default: %(default)s)",
        )
        group.add_argument(
            "--max_repeated_share",
            type=number(float, 0, 1),
            default=FilterSettings.max_repeated_share,
            help="share of n-grams that may be repetitions, 0 to 1 (default: %(default)s)",
        )

    @classmethod
    def from_arguments(
        cls,
        args: argparse.Namespace,
        dialogue: PromptFormat = SELF_ALIGN,
        published_rules: bool = False,
    ) -> "FilterSettings":
        """Reads the files; UserError where one is not as it must be."""
        thresholds = ("min_length", "max_prompt_echo", "loop_words", "max_repeated_share")
        return cls(
            required_opening=load_required_opening(args.required_opening_file),
            blacklist=load_blacklist(args.blacklist_file),
            dialogue=dialogue,
            published_rules=published_rules,
            **{name: getattr(args, name) for name in thresholds},
        )


def number(kind: type, least: float, most: float = math.inf) -> Callable[[str], int | float]:
    """A type of argparse: an int or a finite float within the limits."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if math.isfinite(value) and least <= value <= most:
            return value
        wanted = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise argparse.ArgumentTypeError(f"{text} is out of range; give {wanted}")

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def load_required_opening(path: Path) -> str:
    """The one line of the file; UserError if there is none, or more than one."""
    lines = read_text(path, "--required_opening_file").strip().split("\n")
    if len(lines) != 1 or not lines[0]:
        count = 0 if not lines[0] else len(lines)
        raise UserError(f"{path} has {count} lines; it must hold one, the required opening")
    return lines[0].strip()


def load_blacklist(path: Path) -> dict[str, str]:
    """Each phrase with its example, from lines `phrase<TAB>example`.

    Empty lines and lines that begin with `#` are left out.
    Raises UserError with file and line where the phrase is missing.
    """
    phrases = {}
    for row, line in enumerate(read_text(path, "--blacklist_file").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, _, example = line.partition("\t")
        if not phrase.strip():
            raise UserError(f"{path}, line {row}: no phrase before the tab; write one or none")
        phrases[phrase.strip()] = example.strip()
    return phrases
