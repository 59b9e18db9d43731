"""Prints the packages of a requirements file that this interpreter lacks, in one line.

    python missing_packages.py ../requirements.txt

Needs nothing but the standard library. Other versions than the pinned ones are not its business.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def required(path: Path) -> Iterator[str]:
    """The names of the packages in a requirements file and in those that it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        included = re.fullmatch(r"-r\s+(\S+)", line)
        name = re.match(r"[\w.-]+", line)
        if included:
            yield from required(path.parent / included[1])
        elif name:
            yield name[0]


def is_installed(name: str) -> bool:
    """Whether this interpreter finds a package."""
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    missing = [name for name in required(Path(sys.argv[1])) if not is_installed(name)]
    if missing:
        print(*missing, sep=", ")
