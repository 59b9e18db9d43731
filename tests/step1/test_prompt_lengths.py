"""Token counts against the tokenizers themselves."""

import json
import random

import pytest
import sentencepiece
import tokenizers
from command_line import InputError
from engine.tokenizer import load_tokenizer
from prompt_format import SELF_ALIGN
from token_lengths import TokenCounter, pieces_stay_within_words

AWKWARD = [
    "",
    " ",
    "a",
    " leading",
    "trailing ",
    "two  spaces",
    "many     spaces   between",
    "line\nbreak\n\n  indented",
    "tab\tand\u00a0hard space",
    "\u2581literal meta symbol \u2581 here",
    "naïve café 猫 🚀 \u200b",
    "x" * 300,
    "word " * 40,
]
NO_LIMIT = 10**6


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    pieces = ["the", "principle", " ", "  ", "\n", "é", "猫", "123", "a.b", "User:", "\u2581", "\t"]
    return ["".join(generator.choices(pieces, k=30)) for _ in range(count)]


def counts_agree(model, texts) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    expected = [len(processor.encode(text)) for text in texts]
    assert TokenCounter(str(model)).count(texts, NO_LIMIT) == expected


def test_counts_are_those_of_sentencepiece(tokenizer):
    counts_agree(tokenizer, AWKWARD + random_texts(300))


def test_counts_are_those_of_llama2(shared_data):
    texts = [
        json.loads(line)["instruction"]
        for line in (shared_data / "raw" / "dolly_sample.jsonl").open(encoding="utf-8")
    ]
    model = shared_data / "tokenizers" / "llama2_tokenizer.model"
    counts_agree(model, AWKWARD + random_texts(300) + texts[:1000])


def test_words_are_counted_apart_only_where_that_is_exact():
    assert pieces_stay_within_words(["\u2581a", "b", "\u2581\u2581", "\u2581"])
    assert not pieces_stay_within_words(["a\u2581b"])


def test_limit_is_told_for_longer_texts_only(tokenizer):
    counter = TokenCounter(str(tokenizer))
    texts = ["one two three", "word " * 100, "y" * 10_000_000]
    short, long, huge = counter.count(texts, 50)
    assert short <= 50 < long
    assert huge == 51


def test_a_text_of_exactly_the_limit_is_counted(tokenizer):
    """The word-by-word way gives up on texts of more words than the limit, not of as many."""
    counter = TokenCounter(str(tokenizer))
    texts = ["a b c d", "a b c d e"]
    assert counter.count(texts, NO_LIMIT) == [4, 5]
    assert counter.count(texts, 4) == [4, 5]
    assert counter.count(texts, 3)[0] == 4


def test_a_folder_or_a_rust_tokenizer_works(tokenizer, tmp_path):
    assert TokenCounter(str(tokenizer.parent)).count(["hello"], 9) == TokenCounter(
        str(tokenizer)
    ).count(["hello"], 9)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.enable_truncation(2)
    words.save(str(tmp_path / "tokenizer.json"))
    assert TokenCounter(str(tmp_path)).count(["a b a", "a   b"], 9) == [3, 2]


@pytest.mark.parametrize("content", [b"", b"no model", b"{"])
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_broken_tokenizer_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: not a "):
        TokenCounter(str(tmp_path / name))


def test_a_missing_tokenizer_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        TokenCounter(str(tmp_path / "none" / "tokenizer.model"))
    with pytest.raises(InputError, match=r"holds no tokenizer\.model or tokenizer\.json"):
        TokenCounter(str(tmp_path))


def test_a_prompt_takes_as_many_tokens_as_in_step_2(tokenizer, tiny_base_model):
    """A prompt that this stage keeps must not be too long for the next one."""
    texts = [text for text in AWKWARD if text.strip() == text and text] + [
        "What is it?",
        "Say: a\n\nb",
    ]
    for file in (
        tokenizer,
        tiny_base_model / "tokenizer.json",
        tiny_base_model / "tokenizer.model",
    ):
        step_2 = load_tokenizer(file)
        own_parts = [SELF_ALIGN.own_part(text, "") for text in texts]
        lengths = [len(step_2.encode_continuation(own, SELF_ALIGN.ends_with)) for own in own_parts]
        assert TokenCounter(str(file)).count_in_dialogue(texts, NO_LIMIT) == lengths, file
