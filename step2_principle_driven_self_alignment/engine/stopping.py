"""When a response ends: found in its text, as a marker can be cut into tokens in many ways."""

import codecs

from prompt_format import SELF_ALIGN, PromptFormat


class ResponseText:
    """The bytes of a growing response, and where its own reply ended.

    The end is the user's turn that follows its own reply's turn. A user's turn before that is no
    end but a failed format, which the filter judges.
    """

    def __init__(self, prompt_format: PromptFormat = SELF_ALIGN) -> None:
        self._bytes = bytearray()
        markers = (prompt_format.reply_marker, prompt_format.end_marker)
        if not prompt_format.end_marker:
            markers = ()  # nothing but end-of-sequence or a limit ends it
        self._markers = [marker.encode() for marker in markers if marker]  # still to be found
        self._search_from = 0
        self._end: int | None = None

    def append(self, piece: bytes) -> bool:
        """Adds a token's bytes; True if the response has ended."""
        self._bytes += piece
        while self._markers:
            marker = self._markers[0]
            found = self._bytes.find(marker, self._search_from)
            if found < 0:
                # The next piece may complete a marker that has begun.
                self._search_from = max(self._search_from, len(self._bytes) - len(marker) + 1)
                return False
            self._markers.pop(0)
            # A reply may be empty: the line break that ends it can begin the next turn.
            self._search_from = found + len(marker)
            self._end = found if not self._markers else None
        return self._end is not None

    @property
    def text(self) -> str:
        """All that was written, without the turn that ended it; broken UTF-8 becomes U+FFFD."""
        return self._bytes[: self._end].decode("utf-8", errors="replace")

    @property
    def text_so_far(self) -> str:
        """As `text`, without the bytes of a last character that isn't complete yet."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return decoder.decode(bytes(self._bytes[: self._end]))
