"""Turns HTML that a scraper left around a prompt into text; HTML that the user wrote stays."""

import re
from html.parser import HTMLParser

# the chat page's own elements: their class names give them away
PAGE_ELEMENT = re.compile(r"<div\b[^<>]*\bclass=[\"']markdown prose\b[^<>]*>")
PAGE_WRAPPER = re.compile(
    r"\s*<(div|span|p)\b[^<>]*\b(?:whitespace-pre-wrap|break-words)\b[^<>]*>.*</\1>\s*", re.DOTALL
)
WRAPPED = re.compile(r"\s*<(p|div|span)>.*</(?:p|div|span)>\s*", re.DOTALL)
TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)\b[^<>]*>")
TEXT_TAGS = {"p", "div", "span", "br", "b", "i", "em", "strong", "ul", "ol", "li"}
BLOCK_TAGS = {"p", "div", "ul", "ol", "li", "pre", "table", "tr", "blockquote"} | {
    f"h{level}" for level in range(1, 7)
}
CLOSING_TAGS = ("</div>", "</p>", "</span>")
LINE_BREAK_AT_END = re.compile(r"<br ?/?>[ \t]*(?=\n|\Z)")
APOSTROPHE = re.compile(r"(?<=\w)&#(?:0?39|x27);(?=\w)")


def strip_scraped_html(text: str) -> str:
    """The text without the page's tags.

    Scraped is: text with an element of the chat page, text wholly wrapped in plain text tags,
    closing tags at the end that nothing opens, empty comments that a page generator leaves.
    """
    if "<" not in text and "&#" not in text:
        return text
    if PAGE_ELEMENT.search(text) or PAGE_WRAPPER.fullmatch(text) or _is_wrapped_text(text):
        return _text_of(text)
    text = text.replace("<!-- -->", "")
    tags = {match[1].lower() for match in TAG.finditer(text)}
    if tags and tags <= {"div", "p", "span"} and not re.search(r"<(?:div|p|span)\b", text):
        text = _without_closing_tags(text)
    elif tags == {"br"}:
        text = LINE_BREAK_AT_END.sub("", text)
    return APOSTROPHE.sub("'", text)


def _without_closing_tags(text: str) -> str:
    stripped = text.rstrip()
    while stripped.endswith(CLOSING_TAGS):
        stripped = text = stripped[: stripped.rindex("<")].rstrip()
    return text


def _is_wrapped_text(text: str) -> bool:
    if not WRAPPED.fullmatch(text):
        return False
    tags = list(TAG.finditer(text))
    plain = all(re.fullmatch(r"</?\w+ ?/?>", match[0]) for match in tags)
    return plain and {match[1].lower() for match in tags} <= TEXT_TAGS


class _TextCollector(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self.parts.append("\n")
        elif tag in BLOCK_TAGS:
            self._new_line()
            if tag == "li":
                self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCK_TAGS:
            self._new_line()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def _new_line(self) -> None:
        if self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append("\n")


def _text_of(text: str) -> str:
    collector = _TextCollector()
    collector.feed(text)
    collector.close()
    return "".join(collector.parts).strip("\n")
