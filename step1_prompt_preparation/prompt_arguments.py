"""The command line flags that the scripts of this stage share."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

DEFAULT_TOKENIZER = "huggyllama/llama-7b"  # LLaMA 1 and 2 share it; no login needed


def comma_list(text: str) -> list[str]:
    """`a,b,c` as a list, without empty parts."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise argparse.ArgumentTypeError("an empty list; give names with commas between them")
    return [part for part in parts if part]


def positive_integer(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small; the least is 1")
    return number


def fraction(text: str) -> float:
    """A number above 0 and up to 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0 and at most 1")
    return number


def story_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows types' defaults, accepts no abbreviations, and starts the logging."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --tokenizer_name."""
    parser.add_argument(
        "--tokenizer_name",
        default=DEFAULT_TOKENIZER,
        metavar="FILE|FOLDER|HUB_NAME",
        help="tokenizer that measures the prompts: a tokenizer.model or tokenizer.json, a folder "
        "with one of them, or the name of a Hub repository",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --seed and --rejects_file."""
    parser.add_argument("--seed", type=int, default=42, metavar="INTEGER", help="of the sampling")
    parser.add_argument(
        "--rejects_file",
        type=Path,
        metavar="FILE",
        help="JSONL file for the dropped rows, each with its reason",
    )


def refuse_overwriting(
    parser: argparse.ArgumentParser,
    outputs: dict[str, Path],
    inputs: Sequence[str],
    endings: Sequence[str],
) -> None:
    """Ends with a usage error if two outputs are one file, or an output is or becomes an input.

    Args:
        outputs: the files to write, by the flag that names each.
        endings: of the files that are read where an input is a folder.
    """
    taken = {Path(name).resolve(): "an input" for name in inputs}
    folders = [path for path in taken if path.is_dir()]
    for flag, path in outputs.items():
        place = path.resolve()
        if place in taken:
            parser.error(f"{flag}: {path} is {taken[place]} too; choose another name")
        for folder in folders:
            if folder in place.parents and place.suffix.lower() in endings:
                parser.error(
                    f"{flag}: {path} lies in the input folder {folder}, and the next run would "
                    "read it; choose another folder"
                )
        taken[place] = flag
