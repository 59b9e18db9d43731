"""Takes the residue of chat pages and their extensions out of prompts, and nothing else.

`RULES` is the whole of it: one table, each rule with a text that it cleans and the nearest text
that it must leave alone. A rule runs to the end of the table and again until nothing changes, so
that residue behind residue ("…? 1 / 1" + "Share Prompt") goes too.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scraped_html import strip_scraped_html

MOST_ROUNDS = 20
LANGUAGES = (
    "Arabic|Bengali|Bulgarian|Chinese|Croatian|Czech|Danish|Dutch|English|Estonian|Finnish|French|"
    "German|Greek|Hebrew|Hindi|Hungarian|Indonesian|Italian|Japanese|Korean|Latvian|Lithuanian|"
    "Malay|Norwegian|Persian|Polish|Portuguese|Romanian|Russian|Slovak|Slovenian|Spanish|Swedish|"
    "Thai|Turkish|Ukrainian|Urdu|Vietnamese"
)
SENTENCE_END = r"(?:(?<!\d)[.!]|[?…。！？])"  # not after a digit: "3.1 / 2", "5! 1 / 2"
CLOSING_MARK = r"[\"'”’»」』)\]}>;`]"


@dataclass(frozen=True)
class CleaningRule:
    """`apply` takes the residue out: `example` becomes `cleaned`, `counter_example` stays."""

    name: str
    apply: Callable[[str], str]
    example: str
    cleaned: str
    counter_example: str


def clean_prompt(text: str, applied: Counter[str] | None = None) -> str:
    """The text without residue; `applied` counts the rules that changed something."""
    if not text:
        return text
    used = set()
    for _ in range(MOST_ROUNDS):
        before = text
        for rule in RULES:
            cleaned = rule.apply(text)
            if cleaned != text:
                used.add(rule.name)
                text = cleaned
        if text == before:
            break
    if applied is not None:
        applied.update(used)
    return text


def _replace(pattern: str, replacement: str = "") -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def _replace_unprintable(pattern: str, replacement: str = "") -> Callable[[str], str]:
    """For patterns of characters that print nothing: most texts hold none but line feeds."""
    compiled = re.compile(pattern)

    def replace(text: str) -> str:
        if text.isprintable() or text.replace("\n", "").isprintable():
            return text
        return compiled.sub(replacement, text)

    return replace


def _button(label: str) -> Callable[[str], str]:
    """Removes a page button's label on a line of its own, or glued to the end of the text.

    Glued: straight after a character, or after the end of a sentence and spaces. Behind a space
    in a sentence the words are the user's.
    """
    own_line = re.compile(rf"(?m)^[ \t]*{label}[ \t]*$\n?")
    glued = re.compile(rf"(?:(?<=[^\s/\"'(\[`])|(?P<end>{SENTENCE_END})[ \t]+){label}\s*\Z")

    def remove(text: str) -> str:
        if label not in text:
            return text
        return glued.sub(lambda match: match["end"] or "", own_line.sub("", text))

    return remove


PAGE_COUNTER = r"(?P<page>\d{1,3}) / (?P<pages>\d{1,3})"
COUNTER_LINE = re.compile(rf"(?m)^[ \t]*{PAGE_COUNTER}[ \t]*$\n?")
COUNTER_AT_END = re.compile(rf"(?P<before>{SENTENCE_END}[ \t]*|{CLOSING_MARK}){PAGE_COUNTER}\s*\Z")
OPEN_STATEMENT = tuple(":=+*/^,(-–×÷")  # what follows belongs to the question


def _remove_page_counters(text: str) -> str:
    if " / " not in text:
        return text
    text = COUNTER_LINE.sub(lambda match: _without_counter(match, text), text)
    return COUNTER_AT_END.sub(lambda match: _without_counter(match, text), text)


def _without_counter(match: re.Match[str], text: str) -> str:
    is_counter = 1 <= int(match["page"]) <= int(match["pages"])
    if not is_counter or text[: match.start()].rstrip().endswith(OPEN_STATEMENT):
        return match[0]
    return (match.groupdict().get("before") or "").rstrip()


LANGUAGE_BADGE = re.compile(rf"Language: (?:{LANGUAGES})(?: \([A-Za-z ]+\))?")
FORM_LINE = re.compile(r"[ \t]*(?:[-*•#>]+ ?)?\**[A-Z][\w-]*(?: [\w-]+)?\**[ \t]*:.*\Z")


def _remove_language_badge(text: str) -> str:
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


INVISIBLE = r"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00ad]"
WORD_BREAKS_MATTER = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"  # Thai, Lao, Myanmar, Khmer


def _strip_edges(text: str) -> str:
    """No blank lines before, no space after; no indentation unless later lines have one too."""
    text = re.sub(r"\A(?:[ \t]*\n)+", "", text).rstrip()
    return text if re.search(r"\n[ \t]+\S", text) else text.lstrip()


RULES = (
    CleaningRule(
        "line_endings",
        _replace_unprintable(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n"),
        "one\r\ntwo\u2028three",
        "one\ntwo\nthree",
        r"Replace \r\n by \n in this file.",
    ),
    CleaningRule(
        "control_characters",
        _replace_unprintable(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]"),
        "Hello\x00 wor\x08ld",
        "Hello world",
        "a\tb\nc",
    ),
    CleaningRule(
        "zero_width",
        _replace_unprintable(
            rf"(?<!{WORD_BREAKS_MATTER})\u200b|{INVISIBLE}(?<!\u200b)"
            r"|(?:\A|(?<=[\x00-\x7f]))[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|\Z)"
        ),
        "\ufeffWhat\u200b is\u200d this\u2060?",
        "What is this?",
        "Is 👩\u200d🚀 one sign? می\u200cخواهم",
    ),
    CleaningRule(
        "odd_spaces",
        _replace_unprintable(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f]", " "),
        "Brand:\u00a0X\u2009Y",
        "Brand: X Y",
        "名前\u3000住所\tcity",
    ),
    CleaningRule(
        "scraped_html",
        strip_scraped_html,
        '<div class="markdown prose w-full"><p>What&#39;s a <b>quark</b>?</p><p>Thanks</p></div>',
        "What's a quark?\nThanks",
        'Why does <div class="box"><p>Hi</p></div> break my layout?',
    ),
    CleaningRule(
        "bing_notice",
        _replace(r"\A\s*~The following is a conversation with Bing, not ChatGPT\.~\s*"),
        "~The following is a conversation with Bing, not ChatGPT.~\n\nHi there",
        "Hi there",
        "The following is a conversation with Bing, not ChatGPT. Summarize it.",
    ),
    CleaningRule(
        "copy_code_button",
        _replace(r"(?m)^[a-z+#]{0,12}Copy code[ \t]*$\n?"),
        "Fix this:\npythonCopy code\nprint(1)",
        "Fix this:\nprint(1)",
        "Where is the button Copy code",
    ),
    CleaningRule(
        "page_counter",
        _remove_page_counters,
        "6 / 6\nWhat does onClose do?1 / 1",
        "What does onClose do?",
        "What is 3/4 + 1/2? Read Chapter 1/2 and compute:\n1 / 2",
    ),
    CleaningRule(
        "share_prompt_button",
        _button("Share Prompt"),
        "cities with your best budgetShare Prompt",
        "cities with your best budget",
        "What happens when I press Share Prompt",
    ),
    CleaningRule(
        "translate_now_button",
        _button("Translate now"),
        "Explain rainbows. Translate now",
        "Explain rainbows.",
        "Here is the text that you should Translate now",
    ),
    CleaningRule(
        "korean_translate_button",
        _button("지금 번역하기"),
        "Please explain in detail.\n \n \n \n 지금 번역하기",
        "Please explain in detail.\n \n \n \n",
        "이 글을 지금 번역하기",
    ),
    CleaningRule(
        "language_badge",
        _remove_language_badge,
        "How do magnets work?\n \n Language: English",
        "How do magnets work?",
        "Name a language. Language: French",
    ),
    CleaningRule(
        "blank_lines",
        _replace(r"\n(?:[ \t]*\n){3,}", "\n\n\n"),
        "one\n\n \n\n\n\ntwo",
        "one\n\n\ntwo",
        "import os\n\n\ndef main():\n    pass",
    ),
    CleaningRule(
        "edges",
        _strip_edges,
        "\n \n  Hello there \n\n",
        "Hello there",
        "    if done:\n        return  \n    go()",
    ),
)
