"""Equal, nearly equal and leaked prompts."""

import random

import pytest
from command_line import InputError
from decontamination import BenchmarkQuestions
from normalized_text import normalized, normalized_key
from prompt_sources import find_sources

EQUAL = [
    ("What is a cat?", "what is  a CAT"),
    ("What's up, Doc?", "Whats up doc"),
    ("“Hello” — said he!", '"hello" said he'),
    ("Où est-ce?", "OÙ EST-CE"),
    ("cafe\u0301", "caf\u00e9"),
    ("Straße", "STRASSE"),
    ("猫とは何ですか。", "猫とは何ですか"),
]
DIFFERENT = [
    ("What is C?", "What is C#?"),
    ("2*2", "2-2"),
    ("What is 3.5?", "What is 35?"),
    ("???", "!!!"),
    ("3 / 4", "3 4"),
    ("snake_case", "snake case"),
]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_case_space_and_punctuation_do_not_matter(first, second):
    assert normalized_key(first) == normalized_key(second)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_signs_with_a_meaning_matter(first, second):
    assert normalized_key(first) != normalized_key(second)


def test_fast_way_for_ascii_is_the_same():
    """ASCII texts take another branch of `normalized`; the two must not drift apart."""
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(chr(generator.randrange(32, 127)) for _ in range(20))
        alone, beside = normalized(text), normalized("é " + text)
        assert beside == f"é {alone}" or (beside == "é" and alone == text)


def question_list(*texts: str) -> BenchmarkQuestions:
    questions = BenchmarkQuestions()
    for text in texts:
        questions.add(text, "benchmark")
    return questions


LONG_QUESTION = (
    "Imagine that you are a medieval knight who has to explain to a curious child "
    "why castles were built on hills and what they were for"
)


def test_thirteen_shared_words_are_a_leak():
    questions = question_list(LONG_QUESTION)
    thirteen = "you are a medieval knight who has to explain to a curious child"
    assert questions.find(f"Well, {thirteen.upper()}!") == ("benchmark", thirteen)
    assert questions.find(" ".join(thirteen.split()[1:])) is None


def test_a_short_question_leaks_as_a_whole():
    questions = question_list("What is the capital of Peru?")
    assert questions.find("Tell me: what is the capital of Peru, please")
    assert questions.find("What is the capital of Chile?") is None
    assert questions.find("What is the capital") is None


def test_a_tiny_question_leaks_only_alone():
    questions = question_list("Who am I?", "Why?")
    assert questions.find("why")
    assert questions.find("Why is the sky blue?") is None
    assert questions.find("Tell me who am I in this story")


def test_questions_of_all_formats_are_found(write_json, tmp_path):
    sources = [
        write_json([{"turns": ["What is one?", "And then what is two?"]}], "mt_bench.jsonl"),
        write_json([{"question": "What is three, really?"}], "truthful.json"),
        write_json([{"text": "What is four, in fact?"}], "vicuna.jsonl"),
    ]
    (tmp_path / "truthful.csv").write_text('Type,Question\nA,"What is five, though?"\n')
    names = [*map(str, sources), str(tmp_path / "truthful.csv")]
    questions = BenchmarkQuestions.from_sources(find_sources(names, "--decontaminate_against"))
    for text in ("what is one", "and then what is two", "what is three really"):
        assert questions.find(text), text
    assert questions.find("what is four in fact")
    assert questions.find("what is five though")[0].endswith("truthful.csv")


def test_a_file_without_questions_is_an_error(write_json):
    path = write_json([{"title": "no question here"}])
    with pytest.raises(InputError, match=r"no question found; --decontaminate_against reads"):
        BenchmarkQuestions.from_sources(find_sources([str(path)], "--decontaminate_against"))
