"""How a script of this stage begins and ends: flags refused in a line, exit codes, one voice."""

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

DTYPE_NAMES = ("bfloat16", "float16", "float32")
EXIT_USER_ERROR = 2  # trying again won't help
EXIT_DRAINED = 75
EXIT_INTERRUPTED = 130

_REMEDIES = {
    errno.ENOSPC: "make room there and start the same command again",
    errno.EDQUOT: "your quota is used up: make room and start the same command again",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no larger file",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.EEXIST: "a file lies where a folder is needed, or the reverse: move it away",
    errno.ENOTDIR: "a file lies where a folder is needed: move it away",
    errno.EISDIR: "a folder lies where a file is needed: move it away",
    errno.ENOENT: "it was there a moment ago: look whether another program removes files there",
}


class UserError(Exception):
    """A setting or an input that can't work; the message names it, the limit and the remedy.

    `said_elsewhere`: another process of the same run prints it.
    """

    def __init__(self, message: str, said_elsewhere: bool = False) -> None:
        super().__init__(message)
        self.said_elsewhere = said_elsewhere


class CommandParser(argparse.ArgumentParser):
    """argparse whose errors are two lines, from the first process, instead of the whole usage."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def parse_args(self, args: list[str] | None = None) -> argparse.Namespace:
        """As argparse's, with the nearest flag named for an unknown one."""
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Ends with code 2."""
        if is_first_process():
            print(f"error: {message}\n{self.prog} --help lists all flags", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def is_first_process() -> bool:
    """Whether this process speaks for all that were started for the run."""
    return os.environ.get("RANK", "0") == "0"


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a script's `main` and exits: 0 done, 75 drained, 2 for what the user has to put right.

    Files that can't be read or written end with 1 and a remedy, Ctrl-C with 130. A fault of our own
    code keeps its traceback.
    """
    try:
        code = main()
    except UserError as error:
        code = EXIT_USER_ERROR
        if not error.said_elsewhere:
            print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        code = 1
        remedy = _REMEDIES.get(error.errno, "the same command goes on once that is mended")
        print(f"error: {error}; {remedy}", file=sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        print("error: interrupted; what was complete before is untouched", file=sys.stderr)
    sys.exit(code)
