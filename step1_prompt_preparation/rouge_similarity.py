"""ROUGE-L between word lists, fast enough to hold every new prompt against all that are kept.

ROUGE-L's F1 (Lin 2004, https://aclanthology.org/W04-1013) of two word lists is
2 * LCS / (length + length), which is the normalised Indel similarity of `rapidfuzz` where each word
is one character.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from command_line import progress_bar
from rapidfuzz.distance import Indel
from rapidfuzz.process import cdist

WORD = re.compile(r"[a-z0-9]+")
UNSPACED_WORD = re.compile(r"[^\W_]")  # of a text without a single Latin letter or digit
FIRST_CODE, SURROGATES = 1, range(0xD800, 0xE000)
TEXTS_AT_A_TIME = 512
ROUNDING = 1e-4  # scores are float32; two ROUGE-L values of texts under 300 words differ by more


class WordCodes:
    """Texts as strings with one character a word, the same word always the same character."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}

    def encode(self, text: str) -> str:
        """Lower-case runs of letters and digits, as `rouge_score` cuts them.

        A text in a script without such runs is cut into its characters.
        """
        words = WORD.findall(text.lower()) or UNSPACED_WORD.findall(text.lower())
        return "".join(self._codes.get(word) or self._add(word) for word in words)

    def _add(self, word: str) -> str:
        code = FIRST_CODE + len(self._codes)
        if code >= SURROGATES.start:
            code += len(SURROGATES)
        return self._codes.setdefault(word, chr(code))


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F1 of two texts; 0 where one of them has no word."""
    codes = WordCodes()
    a, b = codes.encode(first), codes.encode(second)
    return Indel.normalized_similarity(a, b) if a and b else 0.0


def find_similar(
    texts: Sequence[str], limit: float, fixed: Sequence[str] = ()
) -> dict[int, tuple[int, float]]:
    """Which texts are too similar to an earlier one that stays, or to one of `fixed`.

    Returns {index of the text to drop: (index of the other, its ROUGE-L)}; a fixed text's index is
    negative, -1 for the first. A text earlier in `texts` wins, so sort them by something that does
    not depend on the order of files.

    Args:
        limit: ROUGE-L F1 above which a text is dropped.
    """
    codes = WordCodes()
    kept = _KeptTexts(limit)
    kept.add([(-1 - number, codes.encode(text)) for number, text in enumerate(fixed)])
    dropped: dict[int, tuple[int, float]] = {}
    with progress_bar("similar texts", total=len(texts), unit="texts") as progress:
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            chunk = [
                (start + number, codes.encode(text))
                for number, text in enumerate(texts[start : start + TEXTS_AT_A_TIME])
            ]
            found = kept.similar_to(chunk)
            left = [(index, code) for index, code in chunk if index not in found]
            found |= _similar_among(left, limit)
            kept.add([(index, code) for index, code in chunk if index not in found])
            dropped |= found
            progress.update(len(chunk))
    return dropped


class _KeptTexts:
    """The encoded texts that stay, by their number of words.

    Above the limit, the shorter of two texts has at least limit / (2 - limit) of the longer one's
    words; other lengths are not compared.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.least_ratio = limit / (2 - limit)
        self._by_length: dict[int, list[tuple[int, str]]] = defaultdict(list)

    def add(self, coded: list[tuple[int, str]]) -> None:
        for index, code in coded:
            if code:
                self._by_length[len(code)].append((index, code))

    def similar_to(self, coded: list[tuple[int, str]]) -> dict[int, tuple[int, float]]:
        """For each text that is too similar to a kept one, the most similar of these."""
        groups: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for index, code in coded:
            if code:
                groups[len(code).bit_length()].append((index, code))
        found = {}
        for texts in groups.values():
            lengths = [len(code) for _, code in texts]
            low, high = min(lengths) * self.least_ratio, max(lengths) / self.least_ratio
            others = [
                text
                for length in sorted(self._by_length)
                if low <= length <= high
                for text in self._by_length[length]
            ]
            found |= _most_similar(texts, others, self.limit)
        return found


def _scores(
    texts: list[tuple[int, str]], others: list[tuple[int, str]], limit: float
) -> np.ndarray:
    """float32 [texts, others]; 0 where the score is below the limit."""
    return cdist(
        [code for _, code in texts],
        [code for _, code in others],
        scorer=Indel.normalized_similarity,
        score_cutoff=limit,
        dtype=np.float32,
        workers=-1,
    )


def _most_similar(
    texts: list[tuple[int, str]], others: list[tuple[int, str]], limit: float
) -> dict[int, tuple[int, float]]:
    if not texts or not others:
        return {}
    scores = _scores(texts, others, limit)
    best = scores.argmax(axis=1)
    return {
        texts[row][0]: (others[column][0], float(scores[row, column]))
        for row, column in enumerate(best.tolist())
        if scores[row, column] > limit + ROUNDING
    }


def _similar_among(coded: list[tuple[int, str]], limit: float) -> dict[int, tuple[int, float]]:
    """The texts that are too similar to an earlier one of the list that stays."""
    texts = [(index, code) for index, code in coded if code]
    if not texts:
        return {}
    scores = _scores(texts, texts, limit)
    found: dict[int, tuple[int, float]] = {}
    stays: list[int] = []
    for row, (index, _) in enumerate(texts):
        earlier = scores[row, stays]
        if len(stays) and earlier.max() > limit + ROUNDING:
            column = stays[int(earlier.argmax())]
            found[index] = (texts[column][0], float(scores[row, column]))
        else:
            stays.append(row)
    return found
