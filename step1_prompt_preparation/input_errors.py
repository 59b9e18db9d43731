"""Mistakes in what a script was given, and how a script ends when it meets one."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A file, row or name that cannot be used. The message names it, the limit and the remedy."""


def run_script(main: Callable[[], None]) -> None:
    """Runs `main`; what the user can mend ends it with one line and exit code 1, no traceback."""
    try:
        main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: stopped; outputs of earlier runs are untouched", file=sys.stderr)
        sys.exit(130)
