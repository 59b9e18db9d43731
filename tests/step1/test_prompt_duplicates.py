"""Equal, nearly equal and leaked prompts."""

import random

import pytest
from normalized_text import normalized, normalized_key

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
