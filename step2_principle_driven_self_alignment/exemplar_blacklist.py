"""Phrases of the worked examples in the principle prompt, which betray a copied reply."""

import re

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
