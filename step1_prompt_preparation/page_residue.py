"""The residue of chat pages and their extensions: how each kind is found and taken out."""

import re
from collections.abc import Callable

LANGUAGES = (
    "Arabic|Bengali|Bulgarian|Chinese|Croatian|Czech|Danish|Dutch|English|Estonian|Finnish|French|"
    "German|Greek|Hebrew|Hindi|Hungarian|Indonesian|Italian|Japanese|Korean|Latvian|Lithuanian|"
    "Malay|Norwegian|Persian|Polish|Portuguese|Romanian|Russian|Slovak|Slovenian|Spanish|Swedish|"
    "Thai|Turkish|Ukrainian|Urdu|Vietnamese"
)
SENTENCE_END = r"(?:(?<!\d)[.!]|[?…。！？])"  # not after a digit: "3.1 / 2", "5! 1 / 2"
CLOSING_MARK = r"[\"'”’»」』)\]}>;`]"


def replace(pattern: str, replacement: str = "") -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def replace_last(pattern: re.Pattern[str], hint: str) -> Callable[[str], str]:
    return lambda text: pattern.sub("", text) if hint in text else text


def replace_unprintable(pattern: str, replacement: str = "") -> Callable[[str], str]:
    """For patterns of characters that print nothing: most texts hold none but line feeds."""
    compiled = re.compile(pattern)

    def replace(text: str) -> str:
        if text.isprintable() or text.replace("\n", "").isprintable():
            return text
        return compiled.sub(replacement, text)

    return replace


def button(label: str, hint: str, behind_blank: str = "") -> Callable[[str], str]:
    """Removes a page button's label on a line of its own, or glued to the end of the text.

    Glued: straight after a character, or after the end of a sentence and spaces. Behind a space
    in a sentence the words are the user's, except where `behind_blank` matches what is before.
    A text without `hint` is passed by.
    """
    own_line = re.compile(rf"(?m)^[ \t]*{label}[ \t]*$\n?")
    glued = re.compile(
        rf"(?:(?<=[^\s/\"'(\[`])|(?P<end>{SENTENCE_END}{behind_blank})[ \t]+){label}\s*\Z"
    )

    def remove(text: str) -> str:
        if hint not in text:
            return text
        return glued.sub(lambda match: match["end"] or "", own_line.sub("", text))

    return remove


NAMES_A_BUTTON = (
    r"(?i:press|click|tap|hit|push|the|an?|call(?:ed)?|named?|labell?ed|label|button|link|says?|on|to"
    r"|and|or|of|is|with|select|choose|option|word|words|phrase|text)"
)
WORD_OF_NO_BUTTON = rf"|\b(?!{NAMES_A_BUTTON}[ \t])[^\W_]+"  # "bring me some Share Prompt"

PAGE_COUNTER = r"(?P<page>\d{1,3}) / (?P<pages>\d{1,3})"
COUNTER_LINE = re.compile(rf"(?m)^[ \t]*{PAGE_COUNTER}[ \t]*$\n?")
COUNTER_AT_END = re.compile(
    rf"(?P<before>{SENTENCE_END}[ \t]*|{CLOSING_MARK}|[^\W\d_]{{2}}|(?<=[^\W\d_]):)"
    rf"{PAGE_COUNTER}\s*\Z"
)
# behind a blank only "1 / 1" is a counter, and only where no reckoning comes before it
LAST_COUNTER = re.compile(
    r"(?P<before>(?:\S+[ \t\n]+){3}(?P<word>[^\W\d_]{2,})) (?P<page>\d{1,3}) / (?P=page)\s*\Z"
)
RECKONING = re.compile(
    r"(?i)(?:is|are|was|be|as|of|by|times|plus|minus|over|equals?|to|and|or|than|with|from|at|in|on|the"
    r"|into|score|scored|rate|rated|page|pages|chapter|section|part|step|item|number|fraction|ratio"
    r"|compute|calculate|evaluate|simplify|solve|multiply|divide|add|subtract|value|result|for)\Z"
)
OPEN_STATEMENT = tuple(":=+*/^,(-–×÷")  # what follows belongs to the question


def remove_page_counters(text: str) -> str:
    if " / " not in text:
        return text
    text = COUNTER_LINE.sub(lambda match: _without_counter(match, text), text)
    text = COUNTER_AT_END.sub(lambda match: _without_counter(match, text), text)
    last = LAST_COUNTER.search(text)
    if last and not RECKONING.match(last["word"]):
        return text[: last.end("before")]
    return text


def _without_counter(match: re.Match[str], text: str) -> str:
    page, pages = int(match["page"]), int(match["pages"])
    before = match.groupdict().get("before") or ""
    is_counter = page == pages > 0 if before == ":" else 1 <= page <= pages
    if not is_counter or text[: match.start()].rstrip().endswith(OPEN_STATEMENT):
        return match[0]
    return before.rstrip()


ESCAPED_MARK = re.compile(r"\\([_*])")
BARE_MARK = re.compile(r"(?<!\\)[_*]")


def undo_markdown_escapes(text: str) -> str:
    """A scraper that made Markdown of a page escaped every one; a user who writes Markdown, none.

    The chat page's own texts bear it out: none with an escaped mark has a bare one too.
    """
    if not ESCAPED_MARK.search(text) or "\\\\" in text or BARE_MARK.search(text):
        return text
    return ESCAPED_MARK.sub(r"\1", text)


SEARCH_RESULTS = re.compile(
    r"\AWeb search results:\s.*\nInstructions: .*\n(?:Query|Prompt): (?P<asked>.+?)"
    r"(?:\nReply in [^\n]+)?\s*\Z",
    re.DOTALL,
)


def keep_search_query(text: str) -> str:
    """What the user asked, of a request that a browser extension filled with search results."""
    found = SEARCH_RESULTS.match(text) if text.startswith("Web search results:") else None
    return found["asked"] if found else text


TRANSLATION_BUTTON = r"(?:지금|다시) ?번역하기"
SECOND_COPY = re.compile(
    rf"\A(?P<first>.+?)\s*(?:{TRANSLATION_BUTTON}|Translate now)\s+(?P<second>\S.+)", re.DOTALL
)


def remove_second_copy(text: str) -> str:
    """Drops the translation pane's button with the copy of the text behind it."""
    found = SECOND_COPY.match(text) if "번역하기" in text or "Translate now" in text else None
    if found and found["first"].split() == found["second"].split():
        return found["first"]
    return text


LANGUAGE_BADGE = re.compile(rf"Language: (?:{LANGUAGES})(?: \([A-Za-z ]+\))?")
LANGUAGE_WISH = re.compile(
    rf"\s*\n\s*\n\s*Please write in (?:{LANGUAGES})(?: \([A-Za-z ]+\))? language\.?\s*\Z"
)
FORM_LINE = re.compile(r"[ \t]*(?:[-*•#>]+ ?)?\**[A-Z][\w-]*(?: [\w-]+)?\**[ \t]*:.*\Z")


def remove_language_badge(text: str) -> str:
    """Removes a last line "Language: English", unless it is the last line of a filled-in form."""
    before, _, last_line = text.rstrip().rpartition("\n")
    if not LANGUAGE_BADGE.fullmatch(last_line.strip()):
        return text
    kept = before.rstrip()
    gap = before[len(kept) :]
    set_apart_by_page = "\n" in gap and (" " in gap or "\t" in gap)  # blank lines with spaces
    if FORM_LINE.match(kept.rpartition("\n")[2]) and not set_apart_by_page:
        return text
    return kept


POLICY_NOTICE = re.compile(
    r"\s*This (?:content|prompt) may violate our content policy\. If you believe this to be in "
    r"error, please submit your feedback — your input will aid our research in this area\.\s*\Z"
)
INVISIBLE = r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00ad]"
WORD_BREAKS_MATTER = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"  # Thai, Lao, Myanmar, Khmer


def strip_edges(text: str) -> str:
    """No blank lines before, no space after; no indentation unless later lines have one too."""
    text = re.sub(r"\A(?:[ \t]*\n)+", "", text).rstrip()
    return text if re.search(r"\n[ \t]+\S", text) else text.lstrip()
