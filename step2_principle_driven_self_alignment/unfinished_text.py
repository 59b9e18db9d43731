"""Trims a reply that was cut in mid-flow back to its last whole sentence, line or word.

Nothing is added: a code fence that was open stays open, with whole lines in it.
"""

import re

# Chinese and Japanese characters and Korean syllables, for use inside [...] of a regular expression
CJK = "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
WIDE_CHARACTER = re.compile(f"[{CJK}\u3001-\u3003\u3008-\u3011\uff01-\uff65]")  # and punctuation
CJK_WEIGHT = 3  # letters of a spaced script that carry about as much as one CJK character

CLOSING = "\"'”’»)\\]*_`」』”’）】》"
# An end of sentence: followed by white space or the end in spaced scripts, by anything in others.
SENTENCE_END = re.compile(rf"[.!?…।۔؟։]+[{CLOSING}]*(?=\s|\Z)|[。！？．]+[{CLOSING}]*")
NO_SENTENCE_END = re.compile(
    r"(?:^\s*(?:\d{1,3}|[a-z]|[ivx]+)"  # the number of a list item
    r"|\b(?:[A-Z]|e\.g|i\.e|etc|vs|cf|approx|Fig|Vol|St|Mr|Mrs|Ms|Dr|Prof|Jr|Sr|Gen|Lt))"
    r"\.\Z"
)
OWN_LINE = re.compile(r"\s*(?:[-*•+#>|]|\w{1,3}[.)、])")  # list items, headings, quotes, tables
WRAPPED_FROM = 60  # a line of prose this long that ends in mid-sentence was wrapped, not ended
CLAUSE_END = re.compile(rf"[，、；：,;:](?=\s|\Z|[{CJK}])")


def trim_unfinished(text: str) -> str:
    """The text without its trailing half sentence.

    In an open code fence the half line goes. Elsewhere the last line is cut after its last whole
    sentence; a line without one goes if there is a line before it, and a wrapped sentence goes
    whole. Of a single half sentence only the half word goes; in scripts without spaces the
    half clause, if it has another.
    """
    if text.endswith("\n") or not text:
        return text.rstrip()
    whole_lines, line_break, last_line = text.rpartition("\n")
    if _in_code_fence(whole_lines):
        return text if _is_fence(last_line) else whole_lines.rstrip()
    end = _last_sentence_end(last_line)
    if end:
        return whole_lines + line_break + last_line[:end]
    if whole_lines.strip():
        wrapped = _is_wrapped(whole_lines.rpartition("\n")[2])
        return trim_unfinished(whole_lines) if wrapped else whole_lines.rstrip()
    return _without_half_word(last_line)


def _in_code_fence(whole_lines: str) -> bool:
    return sum(map(_is_fence, whole_lines.split("\n"))) % 2 == 1


def _is_wrapped(line: str) -> bool:
    return weighted_length(line) >= WRAPPED_FROM and not OWN_LINE.match(line)


def _is_fence(line: str) -> bool:
    return line.lstrip().startswith("```")


def _last_sentence_end(line: str) -> int:
    """The offset behind the line's last whole sentence; 0 if there is none."""
    last = 0
    for match in SENTENCE_END.finditer(line):
        end = match.end()
        half_number = end == len(line) and re.search(r"\d\.\Z", line)
        if not half_number and not NO_SENTENCE_END.search(line[: match.start() + 1]):
            last = end
    return last


def _without_half_word(line: str) -> str:
    words, space, half_word = line.rstrip().rpartition(" ")
    clauses = [match.end() for match in CLAUSE_END.finditer(line)]
    if clauses and re.search(f"[{CJK}]", half_word):
        return line[: clauses[-1]].rstrip("，、；：,;: ")
    return words.rstrip() if space else line


def weighted_length(text: str) -> int:
    """The number of characters, where a CJK character counts as three."""
    if text.isascii():
        return len(text)
    return len(text) + (CJK_WEIGHT - 1) * len(WIDE_CHARACTER.findall(text))
