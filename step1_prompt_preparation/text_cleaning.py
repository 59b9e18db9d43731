"""Takes the residue of chat pages and their extensions out of prompts, and nothing else.

`RULES` is the whole of it: one table, each rule with a text that it cleans and the nearest text
that it must leave alone. A rule runs to the end of the table and again until nothing changes, so
that residue behind residue ("…? 1 / 1" + "Share Prompt") goes too.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from page_residue import (
    INVISIBLE,
    LANGUAGE_WISH,
    POLICY_NOTICE,
    TRANSLATION_BUTTON,
    WORD_BREAKS_MATTER,
    WORD_OF_NO_BUTTON,
    button,
    keep_search_query,
    remove_language_badge,
    remove_page_counters,
    remove_second_copy,
    replace,
    replace_last,
    replace_unprintable,
    strip_edges,
    undo_markdown_escapes,
)
from scraped_html import strip_scraped_html

MOST_ROUNDS = 20


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


RULES = (
    CleaningRule(
        "line_endings",
        replace_unprintable(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n"),
        "one\r\ntwo\u2028three",
        "one\ntwo\nthree",
        r"Replace \r\n by \n in this file.",
    ),
    CleaningRule(
        "control_characters",
        replace_unprintable(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]"),
        "Hello\x00 wor\x08ld",
        "Hello world",
        "a\tb\nc",
    ),
    CleaningRule(
        "zero_width",
        replace_unprintable(
            rf"(?<!{WORD_BREAKS_MATTER})\u200b|{INVISIBLE}(?<!\u200b)"
            r"|(?:\A|(?<=[\x00-\x7f]))[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|\Z)"
        ),
        "\ufeffWhat\u200b is\u200d this\u2060?",
        "What is this?",
        "Is 👩\u200d🚀 one sign? می\u200cخواهم",
    ),
    CleaningRule(
        "odd_spaces",
        replace_unprintable(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f]", " "),
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
        replace(r"\A\s*~The following is a conversation with Bing, not ChatGPT\.~\s*"),
        "~The following is a conversation with Bing, not ChatGPT.~\n\nHi there",
        "Hi there",
        "The following is a conversation with Bing, not ChatGPT. Summarize it.",
    ),
    CleaningRule(
        "copy_code_button",
        replace(r"(?m)^[a-z+#]{0,12}Copy code[ \t]*$\n?"),
        "Fix this:\npythonCopy code\nprint(1)",
        "Fix this:\nprint(1)",
        "Where is the button Copy code",
    ),
    CleaningRule(
        "markdown_escapes",
        undo_markdown_escapes,
        r"Why does my\_function return 3 \* 4?",
        "Why does my_function return 3 * 4?",
        r"Why is the star of ^a\*b_c$ escaped?",
    ),
    CleaningRule(
        "search_results",
        keep_search_query,
        'Web search results:\n\n[1] "A fjord is long."\nURL: https://a.example\n\n'
        "Instructions: Use the results.\nQuery: how deep are fjords?\nReply in English",
        "how deep are fjords?",
        "Web search results: what do they cost me? Query: none",
    ),
    CleaningRule(
        "policy_notice",
        replace_last(POLICY_NOTICE, "violate our content policy"),
        "Print it in C#:\n\nThis content may violate our content policy. If you believe this to be "
        "in error, please submit your feedback — your input will aid our research in this area.",
        "Print it in C#:",
        "When do you say: This content may violate our content policy?",
    ),
    CleaningRule(
        "edit_buttons",
        replace_last(re.compile(r"\s*Save & Submit ?Cancel\s*\Z"), "Save & Submit"),
        "write an ode to tea Save & SubmitCancel",
        "write an ode to tea",
        'Is "Save & Submit" better than "Send", beside Cancel?',
    ),
    CleaningRule(
        "second_copy",
        remove_second_copy,
        "Explain rainbows.\n지금 번역하기\nExplain rainbows.",
        "Explain rainbows.",
        "Explain rainbows.\nTranslate now\nExplain clouds.",
    ),
    CleaningRule(
        "page_counter",
        remove_page_counters,
        "6 / 6\nWhat does onClose do?1 / 1",
        "What does onClose do?",
        "What is 3/4 + 1/2? Read Chapter 1/2 and compute:\n1 / 2",
    ),
    CleaningRule(
        "share_prompt_button",
        button("Share Prompt", "Share Prompt", WORD_OF_NO_BUTTON),
        "cities with your best budgetShare Prompt",
        "cities with your best budget",
        "What happens when I press Share Prompt",
    ),
    CleaningRule(
        "translate_now_button",
        button("Translate now", "Translate now"),
        "Explain rainbows. Translate now",
        "Explain rainbows.",
        "Here is the text that you should Translate now",
    ),
    CleaningRule(
        "korean_translate_button",
        button(TRANSLATION_BUTTON, "번역하기"),
        "Please explain in detail.\n \n \n \n 지금 번역하기",
        "Please explain in detail.\n \n \n \n",
        "이 글을 지금 번역하기",
    ),
    CleaningRule(
        "language_badge",
        remove_language_badge,
        "How do magnets work?\n \n Language: English",
        "How do magnets work?",
        "Name a language. Language: French",
    ),
    CleaningRule(
        "language_wish",
        replace_last(LANGUAGE_WISH, "Please write in"),
        "Plan a week of lunches.\n\nPlease write in English (US) language.",
        "Plan a week of lunches.",
        "Explain photosynthesis.\n\nPlease write in simple language.",
    ),
    CleaningRule(
        "blank_lines",
        replace(r"\n(?:[ \t]*\n){3,}", "\n\n\n"),
        "one\n\n \n\n\n\ntwo",
        "one\n\n\ntwo",
        "import os\n\n\ndef main():\n    pass",
    ),
    CleaningRule(
        "edges",
        strip_edges,
        "\n \n  Hello there \n\n",
        "Hello there",
        "    if done:\n        return  \n    go()",
    ),
)
