"""What a user has to put right, told apart from faults of our own code; how a script ends with it.

Exit codes of the stage's scripts: 0 done; 2 a setting or an input that trying again won't mend;
75 drained, start again; 130 interrupted; 1 any other error.
"""

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_DONE, EXIT_ERROR, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130
REMEDIES = {
    errno.ENOSPC: "make room on the disk, then start the same command again",
    errno.EDQUOT: "make room within your quota, then start the same command again",
    errno.EFBIG: "raise the limit (`ulimit -f`) or take another file system",
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EEXIST: "move it away, or give another name",
    errno.ENOENT: "is the name right, and is its folder there?",
    errno.ENOTDIR: "a part of this path is a file; name a folder",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EIO: "the disk or the network share fails; start the same command again once it works",
    errno.ESTALE: "the network share has lost it; start the same command again",
}


class UserError(Exception):
    """A setting or an input that can't work. The message names it, the limit and the remedy.

    A script that ends with one prints this one line (nothing, where it is empty because another
    process has said it) and exits with `exit_code`.
    """

    exit_code = EXIT_USER_ERROR


class TryAgainError(UserError):
    """What stands in the way now and need not later, as another launch of the same run."""

    exit_code = EXIT_ERROR


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are two lines, from one rank, instead of the whole usage."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}\n{self.prog} --help lists all flags", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def print_error(message: object) -> None:
    """Tells the user what went wrong, on stderr."""
    print(f"error: {message}", file=sys.stderr)


def one_line_errors(
    say: Callable[[object], None] = print_error, interrupted: str = "interrupted"
) -> Callable[[Callable[[], int | None]], Callable[[], int]]:
    """Makes a script's `main` return an exit code, and `say` in a line what a user can mend.

    Any other exception is our own fault and keeps its traceback.
    """

    def decorate(main: Callable[[], int | None]) -> Callable[[], int]:
        @functools.wraps(main)
        def run() -> int:
            try:
                return main() or EXIT_DONE
            except UserError as error:
                if str(error):
                    say(error)
                return error.exit_code
            except OSError as error:
                say(explain_os_error(error))
                return EXIT_ERROR
            except KeyboardInterrupt:
                say(interrupted)
                return EXIT_INTERRUPTED

        return run

    return decorate


def explain_os_error(error: OSError) -> str:
    """What the system refused, in one line: the file, the reason and what to do."""
    if error.errno is None:
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno)
    return f"{place}{error.strerror}" + (f"; {remedy}" if remedy else "")
