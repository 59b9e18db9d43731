"""Which conversations are later pieces of a longer one, and which merely have a number in their id.

Long conversations are spread in pieces named after the turn that they begin with: abc_0, abc_8,
abc_16. Other data sets number whole conversations: identity_0, identity_1, identity_2. The series
shows which it is: pieces do not overlap, and those that begin with an odd turn open with the
assistant.
"""

import re
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

NUMBERED_ID = re.compile(r"(.+)_(\d{1,9})")


class Piece(NamedTuple):
    """What may be a piece: the number of its first turn, how many turns, who speaks first."""

    number: int
    turns: int
    human_first: bool


class ConversationPieces:
    """Takes the ids of all files in, then says which are later pieces."""

    def __init__(self) -> None:
        self._series: dict[str, set[Piece]] = defaultdict(set)

    def add(self, name: str, turns: int, human_first: bool) -> None:
        """Notes a conversation."""
        if numbered := NUMBERED_ID.fullmatch(name):
            self._series[numbered[1]].add(Piece(int(numbered[2]), turns, human_first))

    def later_pieces(self) -> set[str]:
        """The ids of later pieces.

        A series without its first piece counts as pieces if more of the others speak for such
        numbers than against them.
        """
        split, unclear = set(), set()
        votes = 0
        for prefix, pieces in self._series.items():
            later = {f"{prefix}_{piece.number}" for piece in pieces if piece.number}
            if _overlap(pieces):
                votes -= len(later)
            elif any(piece.number == 0 for piece in pieces):
                split |= later
                votes += len(later)
            else:
                unclear |= later
                votes += sum(piece.number % 2 for piece in pieces)
        return split | unclear if votes > 0 else split


def _overlap(pieces: set[Piece]) -> bool:
    """Whether the series cannot be the pieces of one conversation."""
    ordered = sorted(pieces)
    return any(piece.number % 2 and piece.human_first for piece in ordered) or any(
        piece.number < following.number < piece.number + piece.turns
        for piece, following in pairwise(ordered)
    )
