"""A JSON array read element by element: many gigabytes need little memory.

The elements are parsed by Python's own `json`. Streaming libraries fail on what data sets really
hold: `ijson` refuses NaN and integers beyond 64 bits, turns a lone surrogate into "?" and takes
25 GB for 100,000 nested brackets.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from command_line import InputError

CHUNK_CHARACTERS = 4 * 2**20
LONGEST_CUT_NUMBER = 3  # 1 is read of "1e+", and the 5 that follows is not in the buffer yet
LONGEST_CUT_LITERAL = 16  # "-Infinity" or a \uXXXX escape, cut by the end of the buffer
WHITESPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN is how pandas writes "missing"


class JsonArray:
    """Iterates over the elements of the one array in a text file.

    Raises:
        InputError: the file is no array, is cut off, or an element is malformed; names the row.
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self.file = file
        self.name = name
        self.row = 1
        self.buffer = ""
        self.position = 0
        self.file_ended = False

    def __iter__(self) -> Iterator[Any]:
        opening = self._next_character()
        if opening != "[":
            found = f"starts with {opening!r}" if opening else "is empty"
            raise InputError(
                f"{self.name}: {found}; a .json file holds one array [...], "
                "and one object a line belongs in a .jsonl file"
            )
        self.position += 1
        if self._next_character() != "]":
            yield self._element()
            while self._next_character() == ",":
                self.position += 1
                self.row += 1
                yield self._element()
        if self._next_character() != "]":
            self._fail("the array is cut off" if self.file_ended else "no comma after the row")
        self.position += 1
        if self._next_character():
            self._fail("there is more text after the array's end")

    def _next_character(self) -> str:
        """The next character that is no whitespace, unread; "" at the end of the file."""
        while True:
            self.position = WHITESPACE.match(self.buffer, self.position).end()
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if self.file_ended:
                return ""
            self._refill()

    def _element(self) -> Any:
        self._next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if self.file_ended or not self._may_be_cut(error):
                    self._fail(error.msg)
            except RecursionError:
                self._fail("nested too deeply")
            else:
                unread = len(self.buffer) - end
                is_number = isinstance(value, int | float)
                if unread > LONGEST_CUT_NUMBER or self.file_ended or not is_number:
                    self.position = end
                    return value
            self._refill()

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        near_end = error.pos >= len(self.buffer) - LONGEST_CUT_LITERAL
        return near_end or error.msg.startswith("Unterminated string")

    def _refill(self) -> None:
        rest = self.buffer[self.position :]
        chunk = self.file.read(max(CHUNK_CHARACTERS, len(rest)))  # doubling: few parses per element
        self.buffer, self.position, self.file_ended = rest + chunk, 0, not chunk

    def _fail(self, reason: str) -> None:
        raise InputError(f"{self.name}: row {self.row} is not valid JSON: {reason}")
