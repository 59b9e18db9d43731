"""The writing scripts of a text: Latin, Han, Arabic, …, told by Unicode ranges of letters."""

import re
from bisect import bisect_right
from collections import Counter

# Chinese and Japanese characters and Korean syllables, for use inside [...] of a regular expression
CJK = "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
WIDE_CHARACTER = re.compile(f"[{CJK}\u3001-\u3003\u3008-\u3011\uff01-\uff65]")  # and punctuation
CJK_WEIGHT = 3  # letters of a spaced script that carry about as much as one CJK character

# (first code point, script), sorted; a script reaches up to the next entry
RANGES = [
    (0x41, "Latin"),
    (0x370, "Greek"),
    (0x400, "Cyrillic"),
    (0x530, "Armenian"),
    (0x590, "Hebrew"),
    (0x600, "Arabic"),
    (0x900, "Devanagari"),
    (0x980, "Bengali"),
    (0xA00, "Gurmukhi"),
    (0xA80, "Gujarati"),
    (0xB00, "other"),
    (0xB80, "Tamil"),
    (0xC00, "Telugu"),
    (0xC80, "Kannada"),
    (0xD00, "Malayalam"),
    (0xD80, "other"),
    (0xE00, "Thai"),
    (0xE80, "other"),
    (0x10A0, "Georgian"),
    (0x1100, "Hangul"),
    (0x1200, "Ethiopic"),
    (0x1380, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "other"),
    (0x3005, "Han"),
    (0x3041, "Kana"),
    (0x3100, "other"),
    (0x31F0, "Kana"),
    (0x3200, "other"),
    (0x3400, "Han"),
    (0xA000, "other"),
    (0xAC00, "Hangul"),
    (0xD7B0, "other"),
    (0xF900, "Han"),
    (0xFB00, "other"),
    (0x20000, "Han"),
    (0x323B0, "other"),
]
STARTS = [start for start, _ in RANGES]


def script_shares(text: str) -> Counter[str]:
    """How much of the text's letters is in each script, from 0 to 1; empty without letters.

    A CJK character weighs as much as three letters. Japanese mixes Kana and Han: where Kana is a
    tenth of the two or more, all of it counts as Kana.
    """
    weights: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            script = RANGES[bisect_right(STARTS, ord(character)) - 1][1]
            weights[script] += count * (CJK_WEIGHT if script in ("Han", "Kana", "Hangul") else 1)
    if weights["Kana"] * 9 >= weights["Han"]:
        weights["Kana"] += weights.pop("Han", 0)
    total = weights.total()
    return Counter({script: weight / total for script, weight in weights.items() if weight})


def weighted_length(text: str) -> int:
    """The number of characters, where a CJK character counts as three."""
    if text.isascii():
        return len(text)
    return len(text) + (CJK_WEIGHT - 1) * len(WIDE_CHARACTER.findall(text))
