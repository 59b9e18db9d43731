"""The format: turns, meta-prompts, and a chat template that renders exactly what is trained."""

import pytest
from dialogue_format import (
    DEFAULT_META_PROMPTS,
    MetaPrompt,
    Turn,
    chat_template,
    choose_meta_prompt,
    engraved_prompt,
    load_meta_prompts,
    split_turns,
    user_message,
)
from engraving_command import UserError

MARKER = "\n\n### User\n"
CUE = "\n\n### Dromedary\n"


@pytest.mark.parametrize(
    ("output", "finished", "turns", "ended"),
    [
        ("Yes.", True, [Turn("Yes.", True)], True),
        ("Yes, but", False, [Turn("Yes, but", True)], False),
        ("Yes.\n\n### User\n", False, [Turn("Yes.", True)], True),
        ("Yes.\n### User", False, [Turn("Yes.", True)], True),
        (
            f"Yes.{MARKER}Why?{CUE}Because.",
            True,
            [Turn(f"Yes.{MARKER}", True), Turn(f"Why?{CUE}", False), Turn("Because.", True)],
            True,
        ),
        (f"Yes.{MARKER}Why?", False, [Turn("Yes.", True)], True),
        ("Mind the ### User sign.", True, [Turn("Mind the ### User sign.", True)], True),
        ("", True, [Turn("", True)], True),
    ],
)
def test_turns_of_an_output(output, finished, turns, ended):
    assert split_turns(output, finished) == (turns, ended)


def test_prompt_is_the_documented_format():
    prompt = MetaPrompt("concise", "# Dromedary\n\nBe brief.")
    text = engraved_prompt(prompt, user_message("Translate.", "Bonjour"))
    assert text == (
        "# Dromedary\n\nBe brief.\n\n### User\nTranslate.\n\nBonjour\n\n### Dromedary\n"
    )


def test_the_four_meta_prompts_come_sorted():
    names = [prompt.name for prompt in load_meta_prompts(DEFAULT_META_PROMPTS)]
    assert names == [
        f"dromedary_{style}_distill" for style in ("concise", "multilingual", "standard", "verbose")
    ]


def test_meta_prompt_without_heading_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("Be nice.")
    with pytest.raises(UserError, match=r"a\.txt must .* end with the line '### User'"):
        load_meta_prompts(str(tmp_path / "*.txt"))
    with pytest.raises(UserError, match="no meta-prompt matches"):
        load_meta_prompts(str(tmp_path / "*.md"))


def test_unknown_system_prompt_lists_the_names():
    with pytest.raises(UserError, match=r"no system prompt 'rude'.*concise"):
        choose_meta_prompt(DEFAULT_META_PROMPTS, "rude")


@pytest.mark.parametrize("kind", ["sentencepiece_tokenizer", "byte_level_tokenizer"])
@pytest.mark.parametrize("system", ["# It's {{ mine }}\n\nA \\ 'quote' and \"another\".", "Hi."])
def test_chat_template_renders_the_training_format(kind, system, request):
    """A template that renders one blank line more would make every reply start off the road."""
    tokenizer = request.getfixturevalue(kind)
    tokenizer.chat_template = chat_template(system)
    prompt = MetaPrompt("x", system)
    bos = tokenizer.bos_token
    turns = [{"role": "user", "content": "Why?\n"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == bos + engraved_prompt(prompt, "Why?")

    turns += [{"role": "assistant", "content": "Because."}, {"role": "user", "content": "Oh"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == bos + engraved_prompt(prompt, "Why?") + f"Because.{MARKER}Oh{CUE}"

    whole = tokenizer.apply_chat_template(turns[:2], tokenize=False)
    assert whole == bos + engraved_prompt(prompt, "Why?") + f"Because.{MARKER}"

    other = [{"role": "system", "content": "Be brief."}, *turns[:1]]
    rendered = tokenizer.apply_chat_template(other, tokenize=False, add_generation_prompt=True)
    assert rendered == bos + engraved_prompt(MetaPrompt("y", "Be brief."), "Why?")
