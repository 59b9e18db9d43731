"""The cleaning rules, one by one, and the texts that none of them may touch."""

import json
from collections import Counter

import pytest
from non_prompts import KINDS, non_prompt_reason
from text_cleaning import RULES, clean_prompt

BY_NAME = {rule.name: rule for rule in RULES}
UNTOUCHED = [
    "Simplify:1 / 2",
    "Simplify x1 / 2",
    "How many is 3 / 4 of 20 / 5",
    "Write the probability of a head as 1 / 2",
    "Tell me in a few words how much is 3 / 3",
    "What must I do with Save & Submit",
    "Write me a letter to my landlord. Please write in English language.",
    r"In LaTeX, how do I write \text{max\_depth} next to x_{i}?",
    r"Escape *stars* in Markdown: is it \*stars\* or \\*stars\\*?",
    "What is the use of Share Prompt",
    "What is 3/4 + 1/2",
    "What is 3 / 4",
    "Compute this.\n9 / 3",
    "What is it?0 / 3",
    "Solve for x:\n1 / 2",
    "Is it true that 5! 1 / 2",
    "Read Chapter 1/2",
    "Summarise page 1 / 2 of the report",
    "Name a language. Language: French",
    "Name: Ana\nAge: 30\nLanguage: French",
    "Fill in the form:\nLanguage: Klingon",
    "def f(x):\n    if x:\n        return 1\n    return 2",
    "    indented first\n    indented second",
    "| a | b |\n|---|---|\n| 1 / 2 | 3 |",
    "# Title\n\n- one\n- two\n\n```python\nprint('<p>')\n```",
    "Why does `<div>hello</div>` not render?",
    "What does <br> do in HTML?",
    "Translate &lt;b&gt; to a tag",
    "Translate now and then",
    "Where is the button labelled Share Prompt",
    "Does Bing have a notice?",
    "नमस्ते, क्\u200dया है?",
    "C:\\temp\\new",
]
RESIDUE = [
    ("Q: Which advice on iron is good?\nA:2 / 2", "Q: Which advice on iron is good?\nA:"),
    ("Name three birds that can not fly1 / 1", "Name three birds that can not fly"),
    ("Tell a story about his dog Biscuit2 / 2", "Tell a story about his dog Biscuit"),
    ("Please advise how to mend the pump 1 / 1", "Please advise how to mend the pump"),
    ("What is life?Share Prompt1 / 1", "What is life?"),
    (
        "Recommend me cities with a good budget Share Prompt",
        "Recommend me cities with a good budget",
    ),
    ("Write ten haiku.\n\nSave & SubmitCancel", "Write ten haiku."),
    ("Save & SubmitCancel", ""),
    ("Plan it.\n\nPlease write in English language.지금 번역하기", "Plan it."),
    (r"Rewrite this: \*\*Our garden\*\*, \_\_\_ days", "Rewrite this: **Our garden**, ___ days"),
    ("What is life?1 / 1", "What is life?"),
    ("What is life?\n1 / 1", "What is life?"),
    ("6 / 6\nWhat is life?", "What is life?"),
    ("What is life? 2 / 3", "What is life?"),
    ("run it }\n1 / 1\n", "run it }"),
    ("What is life?1 / 1Share Prompt", "What is life?"),
    ("Name: Ana\nAge: 30\n \n \n Language: English", "Name: Ana\nAge: 30"),
    ("Tell me moreShare Prompt", "Tell me more"),
    ("Tell me more.\nShare Prompt\n1 / 1", "Tell me more."),
    ("Write in English.지금 번역하기", "Write in English."),
    ("Tell me.\nTranslate now", "Tell me."),
    ("Tell me a joke.\n\n \n Language: English", "Tell me a joke."),
    ("\ufeff\u200bHello\u00a0you", "Hello you"),
    ("What is a cat?</p></div>", "What is a cat?"),
    ("<p>What is a cat?</p>", "What is a cat?"),
    ("one\r\ntwo\rthree", "one\ntwo\nthree"),
]


@pytest.mark.parametrize("name", BY_NAME)
def test_rule_cleans_its_example(name):
    rule = BY_NAME[name]
    assert rule.apply(rule.example) != rule.example
    assert clean_prompt(rule.example) == clean_prompt(rule.cleaned)


@pytest.mark.parametrize("name", BY_NAME)
def test_rule_alone_gives_the_cleaned_text(name):
    rule, text = BY_NAME[name], BY_NAME[name].example
    while (cleaned := rule.apply(text)) != text:
        text = cleaned
    assert text == rule.cleaned


@pytest.mark.parametrize("name", BY_NAME)
def test_rule_leaves_its_counter_example(name):
    rule = BY_NAME[name]
    assert rule.apply(rule.counter_example) == rule.counter_example


@pytest.mark.parametrize("text", UNTOUCHED)
def test_harmless_text_stays(text):
    applied = Counter()
    assert clean_prompt(text, applied) == text, applied


@pytest.mark.parametrize(("text", "cleaned"), RESIDUE)
def test_residue_goes(text, cleaned):
    assert clean_prompt(text) == cleaned


def test_residue_behind_residue_goes():
    applied = Counter()
    assert clean_prompt("What is life?\nShare Prompt\n3 / 3\n", applied) == "What is life?"
    assert applied["page_counter"] == applied["share_prompt_button"] == 1


def test_cleaning_twice_changes_nothing():
    for rule in RULES:
        cleaned = clean_prompt(rule.example)
        assert clean_prompt(cleaned) == cleaned


def test_real_prompts_lose_little(shared_data):
    """On rows that people wrote by hand, only spaces and line ends may change."""
    rows = map(json.loads, (shared_data / "raw" / "dolly_sample.jsonl").open(encoding="utf-8"))
    applied = Counter()
    for row in rows:
        clean_prompt(row["instruction"], applied)
    harmless = {"line_endings", "odd_spaces", "edges", "blank_lines", "zero_width"}
    assert set(applied) <= harmless, applied


NON_PROMPTS = {
    "continuation": ["continue", "Keep going", "Go on please", "continue to step 7", "继续"],
    "reaction": ["yes", "Great Thanks", "That's right!", "ok"],
    "keyboard_noise": ["asdf", "sdfsdf", "kjhgfdsa", "???", "1", "aaaaaa"],
    "assistant_text": ["You're welcome! Is there anything else?", "I apologize for the confusion."],
    "page_notice": ["This conversation was shared via ShareGPT"],
}
PROMPTS = [
    *("HTML", "mkdir", "kubectl", "Hello", "piizza", "hooks", "2+2", "What is 7*8?", "猫", "go"),
    "How to say yes in Thai",
    "Proceed with caution: what does it mean?",
    "What comes next: 1 2 4",
    "flash",
    "Continue this poem: the fog comes",
    "I'm sorry, but how do I say no to my boss?",
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.reason)
def test_a_kind_of_non_prompt_drops_its_example_only(kind):
    assert kind.matches(kind.example) and non_prompt_reason(kind.example) == kind.reason
    assert non_prompt_reason(kind.counter_example) is None


@pytest.mark.parametrize(("reason", "texts"), NON_PROMPTS.items(), ids=NON_PROMPTS)
def test_non_prompts_are_told(reason, texts):
    assert {text: non_prompt_reason(text) for text in texts} == dict.fromkeys(texts, reason)


@pytest.mark.parametrize("text", PROMPTS)
def test_short_prompts_stay(text):
    assert non_prompt_reason(text) is None


def test_prompts_that_people_wrote_for_models_ask_for_something(shared_data):
    rows = map(json.loads, (shared_data / "raw" / "dolly_sample.jsonl").open(encoding="utf-8"))
    assert [row["instruction"] for row in rows if non_prompt_reason(row["instruction"])] == []
