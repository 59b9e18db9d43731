"""When a response ends: found in its text, as a marker can be cut into tokens in many ways."""

import codecs
import re

from prompt_format import SELF_ALIGN, PromptFormat


class ResponseText:
    """The bytes of a growing response, and where its own reply ended.

    The end is the turn that follows its own reply: the user's, or a further one of the codename. A
    user's turn before that is no end but a failed format, which the filter judges.
    """

    def __init__(self, prompt_format: PromptFormat = SELF_ALIGN) -> None:
        self._bytes = bytearray()
        self._reply_marker = prompt_format.reply_marker.encode()
        self._next_turn = re.compile(prompt_format.next_turn.pattern.encode())
        self._longest_marker = len(prompt_format.end_marker.encode())
        self._replied = not self._reply_marker
        self._search_from = 0
        self._end: int | None = None

    def append(self, piece: bytes) -> bool:
        """Adds a token's bytes; True if the response has ended."""
        self._bytes += piece
        if self._end is None and self._finds_reply():
            next_turn = self._next_turn.search(self._bytes, self._search_from)
            if next_turn:
                self._end = next_turn.start()
            else:  # a turn of the last line may not be complete yet
                last_line = self._bytes.rfind(b"\n") - self._longest_marker
                self._search_from = max(self._search_from, last_line)
        return self._end is not None

    def _finds_reply(self) -> bool:
        if not self._replied:
            found = self._bytes.find(self._reply_marker, self._search_from)
            self._replied = found >= 0
            # A reply may be empty: the line break that ends it can begin the next turn.
            begun = len(self._bytes) - len(self._reply_marker) + 1
            after = found + len(self._reply_marker) if self._replied else begun
            self._search_from = max(self._search_from, after)
        return self._replied

    @property
    def text(self) -> str:
        """All that was written, without the turn that ended it; broken UTF-8 becomes U+FFFD."""
        return self._bytes[: self._end].decode("utf-8", errors="replace")

    @property
    def text_so_far(self) -> str:
        """As `text`, without the bytes of a last character that isn't complete yet."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return decoder.decode(bytes(self._bytes[: self._end]))
