"""The edges of a script of this stage: its flags, how it ends on an error, its progress bar."""

import argparse
import errno
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

DEFAULT_TOKENIZER = "huggyllama/llama-7b"  # LLaMA 1 and 2 share it; no login needed
SECONDS_BETWEEN_LINES = 20  # of a bar in a log file, where each of its states stays
REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EFBIG: "the disk or the shell (ulimit -f) allows no larger file; write to another disk",
    errno.EACCES: "change its permissions, or name another file",
    errno.EPERM: "change its permissions, or name another file",
    errno.EROFS: "it lies on a read-only disk; write to another one",
    errno.ENOTDIR: "a file stands where a folder is needed; name another path",
    errno.EEXIST: "a file stands where a folder is needed; name another path",
    errno.ENAMETOOLONG: "name a shorter path",
}


class InputError(Exception):
    """A file, row or setting that cannot be used: the message names it, the limit, the remedy."""

    exit_code = 2  # trying again won't help


class UnreachableError(InputError):
    """The Hub did not give what was asked of it. It may the next time."""

    exit_code = 1


def run_script(main: Callable[[], None]) -> None:
    """Runs `main`; what the user can mend ends it with one line and an exit code, no traceback."""
    try:
        main()
    except InputError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "check the path and the disk, then try again")
        place = f"{error.filename}: " if error.filename else ""
        _end(f"{place}{error.strerror or error}; {remedy}", 1)
    except KeyboardInterrupt:
        _end("stopped; outputs of earlier runs are untouched", 130)


def _end(message: str, exit_code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


class ScriptParser(argparse.ArgumentParser):
    """Shows defaults, accepts no abbreviations, and keeps an error to two lines."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        logging.basicConfig(level=logging.INFO, format="%(message)s")

    def error(self, message: str) -> NoReturn:
        """Ends with the message and where the flags are explained; exit code 2."""
        self.exit(2, f"error: {message}\n{self.prog} --help explains the flags\n")


def comma_list(text: str) -> list[str]:
    """`a,b,c` as a list, without empty parts."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise argparse.ArgumentTypeError("an empty list; give names with commas between them")
    return [part for part in parts if part]


def positive_integer(text: str) -> int:
    """A number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small; the least is 1")
    return number


def fraction(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:  # NaN too
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return number


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --tokenizer_name."""
    parser.add_argument(
        "--tokenizer_name",
        default=DEFAULT_TOKENIZER,
        metavar="FILE|FOLDER|HUB_NAME",
        help="tokenizer that measures the prompts: a tokenizer.model or tokenizer.json, a folder "
        "with one of them, or the name of a Hub repository",
    )


def add_seed_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --seed; `what` it decides."""
    parser.add_argument("--seed", type=int, default=42, metavar="INTEGER", help=f"of {what}")


def add_rejects_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --rejects_file."""
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
            if folder in place.parents and place.name.lower().endswith(tuple(endings)):
                parser.error(
                    f"{flag}: {path} lies in the input folder {folder}, and the next run would "
                    "read it; choose another folder"
                )
        taken[place] = flag


def progress_bar(
    what: str, rows: Iterable[Any] | None = None, total: int | None = None, unit: str = "rows"
) -> "tqdm":
    """A bar to iterate over, or (without `rows`) to update; nothing for work of under a second."""
    from tqdm import tqdm

    return tqdm(
        rows,
        desc=what,
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        delay=1,
        mininterval=0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
    )
