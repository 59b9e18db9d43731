"""The format: turns, meta-prompts, and a chat template that renders exactly what is trained."""

import jinja2
import pytest
from base_tokenizer import begin_ids
from dialogue_format import (
    DEFAULT_META_PROMPTS,
    MetaPrompt,
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
SYSTEM = "# It's {{ mine }} {% x %}\n\nA \\ 'quote' and \"another\"."


@pytest.mark.parametrize(
    ("output", "finished", "turns", "ended"),
    [
        ("Yes.", True, ["Yes."], True),
        ("Yes, but", False, ["Yes, but"], False),
        ("Yes.\n\n### User\n", False, ["Yes."], True),
        ("Yes.\n### User", False, ["Yes."], True),
        (f"Yes.{MARKER}Why?{CUE}Because.", True, ["Yes.", "Why?", "Because."], True),
        (f"Yes.{MARKER}Why?{CUE}Because", False, ["Yes.", "Why?", "Because"], False),
        (f"Yes.{MARKER}Why?", False, ["Yes."], True),
        (f"Yes.{MARKER}Why?{CUE}", False, ["Yes."], True),
        (f"Yes.{CUE}Why?", True, ["Yes."], False),
        ("Mind the ### User sign.", True, ["Mind the ### User sign."], True),
        ("", True, [], False),
        (f"### User\nWhy?{CUE}Because.", True, [], False),
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


@pytest.fixture(params=["sentencepiece_tokenizer", "byte_level_tokenizer"])
def render(request):
    """Renders messages, and gives the tokenizer; the default system prompt is hostile."""
    tokenizer = request.getfixturevalue(request.param)
    tokenizer.chat_template = chat_template(
        SYSTEM,
        bos=tokenizer.decode(begin_ids(tokenizer)),
        eos=tokenizer.eos_token,
        special_tokens=tokenizer.all_special_tokens,
    )

    def rendered(*turns, generate=True):
        messages = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate
        )

    rendered.bos, rendered.eos = tokenizer.decode(begin_ids(tokenizer)), tokenizer.eos_token
    return rendered


def test_chat_template_renders_the_training_format(render):
    """A template that renders one blank line more would make every reply start off the road."""
    start = render.bos + engraved_prompt(MetaPrompt("x", SYSTEM), "Why?")
    asked = ("user", "Why?\n")
    assert render(asked) == start

    said = ("assistant", "Because.")
    assert render(asked, said, ("user", "Oh")) == f"{start}Because.{render.eos}{MARKER}Oh{CUE}"
    assert render(asked, said, generate=False) == f"{start}Because.{render.eos}{MARKER}"

    brief = render.bos + engraved_prompt(MetaPrompt("y", "Be brief."), "Why?")
    for role in ("system", "developer"):
        assert render((role, "Be brief."), asked) == brief


def test_chat_template_reads_text_parts_as_servers_send_them(render):
    """A list of parts was printed as Python prints it."""
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert render(("user", parts)) == render(("user", "Why?"))


def test_a_special_token_in_a_message_is_broken_up(render):
    text = f"Does {render.eos} end it?"
    assert render(("user", text)).count(render.eos) == 0
    assert render(("user", text), ("assistant", render.eos)).count(render.eos) == 1
    assert render.eos[:1] + " " + render.eos[1:] in render(("user", text))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("tool", "4")], "role tool is out of place"),
        ([("user", "Hi"), ("user", "Ho")], "role user is out of place"),
        ([("user", "Hi"), ("system", "Ho")], "role system is out of place"),
        ([("assistant", "Hi")], "role assistant is out of place"),
        ([("user", [{"type": "image_url", "image_url": "x"}])], "text only, not image_url"),
        ([("user", {"text": "Hi"})], "must be text"),
    ],
)
def test_chat_template_refuses_what_it_does_not_know(render, turns, message):
    """Unknown roles vanished without a word."""
    with pytest.raises(jinja2.TemplateError, match=message):
        render(*turns)
