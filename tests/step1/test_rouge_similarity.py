"""ROUGE-L between word lists, and which of similar texts stay."""

import random

import pytest
from rouge_similarity import find_similar, rouge_l

WORDS = [f"w{number}" for number in range(40)]


def random_text(rng, longest=30):
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))


def test_scores_are_those_of_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = random.Random(0)
    for _ in range(200):
        first, second = random_text(rng), random_text(rng)
        expected = scorer.score(first, second)["rougeL"].fmeasure
        assert rouge_l(first, second) == pytest.approx(expected, abs=1e-9)


def test_it_finds_what_a_plain_search_finds():
    """Chunks, length bands and the order of texts lose and add nothing."""
    rng = random.Random(1)
    texts = [random_text(rng, 12) for _ in range(700)]
    texts += [text + " w1" for text in texts[:200]]
    rng.shuffle(texts)
    fixed = [texts[3] + " w2", "w39 w38 w37 w36 w35"]
    kept, dropped = [*fixed], set()
    for index, text in enumerate(texts):
        if any(rouge_l(text, other) > 0.7 for other in kept):
            dropped.add(index)
        else:
            kept.append(text)
    assert set(find_similar(texts, 0.7, fixed)) == dropped
    assert 100 < len(dropped) < 800


def test_exactly_at_the_limit_stays():
    assert rouge_l("a b c d e f g x y z", "a b c d e f g p q r") == pytest.approx(0.7)
    assert not find_similar(["a b c d e f g x y z", "a b c d e f g p q r"], 0.7)
    assert find_similar(["a b c d e f g h y z", "a b c d e f g h q r"], 0.7) == {
        1: (0, pytest.approx(0.8))
    }


def test_a_seed_is_named_by_a_negative_index():
    assert find_similar(
        ["Why is the sky so blue?"], 0.7, ["other words", "why is the sky blue"]
    ) == {0: (-2, pytest.approx(10 / 11))}


def test_texts_without_latin_letters_are_compared_too():
    assert find_similar(
        ["为什么天空是蓝色的", "为什么天空是蓝色的呢", "海洋有多深"], 0.7
    ).keys() == {1}
