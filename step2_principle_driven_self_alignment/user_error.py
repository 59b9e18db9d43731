"""What a user has to put right, told apart from faults of our own code."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130


class UserError(Exception):
    """A setting or an input that can't work. The message names it, the limit and the remedy.

    A script that ends with one prints this one line and exits with 2: trying again won't help.
    """


class CommandLine(argparse.ArgumentParser):
    """A parser that takes whole flag names only, and answers a wrong one in two lines."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}\nAll flags: python {sys.argv[0]} --help\n")


def run_script(main: Callable[[], int | None]) -> int:
    """Runs the `main` of a script and returns the exit code; errors are one line on stderr.

    Exceptions that our own code is to blame for keep their traceback.
    """
    try:
        return main() or EXIT_DONE
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def describe_os_error(error: OSError) -> str:
    """The file, what the system says of it, and what to do, without an errno."""
    if error.errno is None:
        return str(error)
    reason = os.strerror(error.errno)
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{reason[0].lower()}{reason[1:]}. Put that right and start the command again"
