"""The texts and thresholds that the filter's rules use, and their flags."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exemplar_blacklist import load_blacklist
from prompt_format import SELF_ALIGN, PromptFormat

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
            type=at_least(0, int),
            default=FilterSettings.min_length,
            help="characters of a reply; a CJK character counts as three (default: %(default)s)",
        )
        group.add_argument(
            "--max_prompt_echo",
            type=at_least(0, int),
            default=FilterSettings.max_prompt_echo,
            help="characters of an instruction or input that a reply may contain whole "
            "(default: %(default)s)",
        )
        group.add_argument(
            "--loop_words",
            type=at_least(10, int),
            default=FilterSettings.loop_words,
            help="words in a row without a new n-gram that make a loop (default: %(default)s)",
        )
        group.add_argument(
            "--max_repeated_share",
            type=at_least(0, float),
            default=FilterSettings.max_repeated_share,
            help="share of n-grams that may be repetitions, 0 to 1 (default: %(default)s)",
        )

    @classmethod
    def from_arguments(
        cls, args: argparse.Namespace, published_rules: bool = False
    ) -> "FilterSettings":
        """Reads the files; ValueError or FileNotFoundError where one is not as it must be."""
        thresholds = ("min_length", "max_prompt_echo", "loop_words", "max_repeated_share")
        return cls(
            required_opening=load_required_opening(args.required_opening_file),
            blacklist=load_blacklist(args.blacklist_file),
            published_rules=published_rules,
            **{name: getattr(args, name) for name in thresholds},
        )


def at_least(limit: int, kind: type) -> Callable[[str], int | float]:
    """A type of argparse: an int or a float that is not below the limit."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if value < limit:
            raise argparse.ArgumentTypeError(f"{text} is too small; give {limit} or more")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def load_required_opening(path: str | Path) -> str:
    """The one line of the file; ValueError if there is none, or more than one."""
    lines = Path(path).read_text(encoding="utf-8").strip().splitlines()
    if len(lines) != 1:
        raise ValueError(f"{path} has {len(lines)} lines; it must hold one, the required opening")
    return lines[0].strip()
