"""Phrases of the worked examples in the principle prompt, which betray a copied reply."""

import re
from collections.abc import Iterator
from pathlib import Path

from unfinished_text import CJK

WORD_CHARACTER = rf"[^\W{CJK}]"


class ExemplarBlacklist:
    """Finds the phrases as words, whatever their case and line breaks."""

    def __init__(self, phrases: dict[str, str]) -> None:
        """`phrases`: each with the example that it comes from."""
        self._patterns = {_flat(phrase): _as_words(_flat(phrase)) for phrase in phrases}

    def find(self, reply: str, prompt: str) -> str | None:
        """A phrase of the reply that the user's prompt doesn't contain, or None.

        A plural makes no difference: who asks about a lichen may hear of lichens.
        """
        flat_reply = _flat(reply)
        for phrase, pattern in self._patterns.items():
            if (
                phrase in flat_reply
                and phrase.removesuffix("s") not in _flat(prompt)
                and pattern.search(flat_reply)
            ):
                return phrase
        return None


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


def _as_words(phrase: str) -> re.Pattern[str]:
    """Matches the phrase as words; an edge in a script without spaces needs no boundary."""
    before = rf"(?<!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, phrase[0]) else ""
    after = rf"(?!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, phrase[-1]) else ""
    return re.compile(before + re.escape(phrase) + after)


def load_blacklist(path: str | Path) -> dict[str, str]:
    """Each phrase with its example, from lines `phrase<TAB>example`.

    Empty lines and lines that begin with `#` are left out.
    Raises ValueError with file and line where the phrase is missing.
    """
    return dict(_rows(Path(path)))


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, _, example = line.partition("\t")
        if not phrase.strip():
            raise ValueError(f"{path}, line {number}: no phrase before the tab")
        yield phrase.strip(), example.strip()
