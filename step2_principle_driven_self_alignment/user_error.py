"""What a user has to put right, told apart from faults of our own code; how a script ends with it.

Exit codes of the stage's scripts: 0 done; 2 a setting or an input that trying again won't mend;
75 drained, start again; 130 interrupted; 1 any other error.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130
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
}


class UserError(Exception):
    """A setting or an input that can't work. The message names it, the limit and the remedy.

    A script that ends with one prints this one line (nothing, where it is empty because another
    process has said it) and exits with `exit_code`.
    """

    exit_code = EXIT_USER_ERROR


class TryAgainError(UserError):
    """What stands in the way now and need not later, as another launch of the same run."""

    exit_code = EXIT_FAILED


class CommandLine(argparse.ArgumentParser):
    """A parser that takes whole flag names only, and answers a wrong one in two lines."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") != "0":  # rank 0 says it for all
            sys.exit(EXIT_USER_ERROR)
        self.exit(EXIT_USER_ERROR, f"error: {message}\nAll flags: python {sys.argv[0]} --help\n")


def print_error(message: object) -> None:
    """Tells the user what went wrong, on stderr."""
    print(f"error: {message}", file=sys.stderr)


def run_script(
    main: Callable[[], int | None], say: Callable[[object], object] = print_error
) -> int:
    """Runs the `main` of a script and returns the exit code; errors are one line.

    Exceptions that our own code is to blame for keep their traceback.
    """
    try:
        return main() or EXIT_DONE
    except UserError as error:
        if str(error):
            say(error)
        return error.exit_code
    except OSError as error:
        say(describe_os_error(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED


def describe_os_error(error: OSError) -> str:
    """The file, what the system says of it, and what to do, without an errno."""
    if error.errno is None:
        return str(error)
    reason = os.strerror(error.errno)
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(error.errno, "put that right, then start the same command again")
    return f"{place}{reason[0].lower()}{reason[1:]}; {remedy}"
