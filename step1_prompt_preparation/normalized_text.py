"""Texts compared without what does not matter: case, whitespace, punctuation."""

import hashlib
import re
import unicodedata

# these carry meaning in code and arithmetic: "C#" is not "C", "2*2" is not "2-2"
MEANINGFUL = set("#%&*-/@\\_")
WITHIN_WORDS = ".,:"  # kept there: "3.5", "10:30", "main.py"
APOSTROPHES = "'’‘`´ʼ"  # "what's" is "whats"
# scripts written without spaces: each character counts as a word
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
PLAIN_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def _is_dropped_mark(character: str) -> bool:
    kept = character in MEANINGFUL or character in WITHIN_WORDS
    return unicodedata.category(character).startswith("P") and not kept


PUNCTUATION = {code: " " for code in range(0x10000) if _is_dropped_mark(chr(code))}
PUNCTUATION |= dict.fromkeys(map(ord, APOSTROPHES))
ASCII_PUNCTUATION = bytes(32 if code in PUNCTUATION else code for code in range(256))


def normalized(text: str) -> str:
    """Lower case, no sentence punctuation, single spaces; the text itself if nothing is left."""
    if text.isascii():  # the same, and faster
        folded = text.lower().encode().translate(ASCII_PUNCTUATION, b"'`").decode()
    else:
        folded = unicodedata.normalize("NFC", text).casefold().translate(PUNCTUATION)
    stripped = [word.strip(WITHIN_WORDS) for word in folded.split()]
    return " ".join(filter(None, stripped)) or text


def normalized_key(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in case, whitespace or punctuation alone."""
    encoded = normalized(text).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=16).digest()


def words(text: str) -> list[str]:
    """The words of the normalised text, operators and signs included."""
    return WORD.findall(normalized(text))


def plain_words(text: str) -> list[str]:
    """The runs of letters and digits in lower case, for finding one text inside another."""
    return PLAIN_WORD.findall(unicodedata.normalize("NFC", text).casefold())
