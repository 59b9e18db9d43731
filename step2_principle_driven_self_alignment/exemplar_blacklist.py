"""Phrases of the worked examples in the principle prompt, which betray a copied reply."""

import re
from collections.abc import Iterator
from pathlib import Path

from writing_scripts import CJK

WORD_CHARACTER = rf"[^\W{CJK}]"


class ExemplarBlacklist:
    """Finds the phrases as words, whatever their case and line breaks."""

    def __init__(self, phrases: dict[str, str]) -> None:
        """`phrases`: each phrase with the example that it comes from."""
        self.phrases = phrases
        longest_first = sorted(phrases, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_as_words, longest_first)), re.IGNORECASE)

    def find(self, reply: str, prompt: str) -> str | None:
        """The first phrase of the reply that the user's prompt doesn't contain, or None.

        A plural makes no difference: who asks about a lichen may hear of lichens.
        """
        if not self.phrases:
            return None
        known = None
        for match in self._pattern.finditer(reply):
            known = " ".join(prompt.casefold().split()) if known is None else known
            phrase = " ".join(match[0].casefold().split())
            if phrase.removesuffix("s") not in known:
                return match[0]
        return None


def _as_words(phrase: str) -> str:
    """A regular expression for the phrase; an edge in a script without spaces needs no boundary."""
    inner = r"\s+".join(map(re.escape, phrase.split()))
    before = rf"(?<!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, phrase[0]) else ""
    after = rf"(?!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, phrase[-1]) else ""
    return before + inner + after


def load_blacklist(path: str | Path) -> ExemplarBlacklist:
    """Reads a blacklist: lines `phrase<TAB>example`; empty lines and lines from `#` on are skipped.

    Raises ValueError with file and line where the phrase is missing.
    """
    return ExemplarBlacklist(dict(_rows(Path(path))))


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, _, example = line.partition("\t")
        if not phrase.strip():
            raise ValueError(f"{path}, line {number}: no phrase before the tab")
        yield phrase.strip(), example.strip()
