"""Near-duplicates: the same request said another way goes, another task never does."""

import random
from collections import Counter

import pytest
from deduplication import band_rows, find_near_duplicates
from step1.planted_prompts import different_tasks, rephrasings

ONE = [
    ("What's the capital of Peru?", "Hi! Could you please tell me what the capital of Peru is?"),
    ("List 25 birds of Iceland.", "Please list twenty-five birds of Iceland, thanks."),
    ("List 1,500 birds.", "List 1500 birds"),
    ("Explain how the lighthouse works.", "Explain how the lighthuose works."),
    ("Name the oldest bridge.\nWho built it?", "Who built it? Name the oldest bridge."),
    (r"Explain my\_value = 3", "explain my_value = 3"),
]
TWO = [
    ("Who founded House Stark?", "Who founded House Stork?"),
    ("Translate English to French.", "Translate French to English."),
    ("What can you do?", "What are you?"),
    ("Tell me more", "Tell me"),
    ("Can penguins fly?", "Can penguins not fly?"),
    ("Say what the text means.\n\nInput: Thank you!", "Say what the text means.\n\nInput: Hello!"),
    ('Translate "the" into German', 'Translate "this" into German'),
    ("Sort: day, night, work", "Sort: school, class, time"),
    ("Write 3 haiku about rain", "Write 4 haiku about rain"),
    ("Describe the cat on the roof", "Describe the car on the roof"),
]


@pytest.mark.parametrize(("first", "second"), ONE)
def test_the_same_request_said_another_way_is_one(first, second):
    assert set(find_near_duplicates([first, second, "Something else"], 1)) in ({0}, {1})


@pytest.mark.parametrize(("first", "second"), TWO)
def test_another_task_is_another_prompt(first, second):
    assert find_near_duplicates([first, second], 1) == {}


def test_planted_rephrasings_are_found_and_planted_tasks_stay(capsys):
    """The figures that the README gives; run with -s to see them by kind."""
    found, planted = Counter(), Counter()
    for kind, original, other in rephrasings():
        planted[kind] += 1
        found[kind] += len(find_near_duplicates([original, other], 1))
    tasks = different_tasks()
    lost = {kind: len(find_near_duplicates(texts, 1)) for kind, texts in tasks.items()}
    with capsys.disabled():
        print()
        for kind in planted:
            print(f"rephrased, {kind}: {found[kind]} of {planted[kind]} found")
        for kind, texts in tasks.items():
            print(f"different tasks, {kind}: {lost[kind]} of {len(texts)} lost")
    assert found.total() >= 0.95 * planted.total()
    assert all(found[kind] >= 0.9 * planted[kind] for kind in planted)
    assert sum(lost.values()) < 0.01 * sum(map(len, tasks.values()))


WORDS = [f"word{number}" for number in range(400)]


def sentence(seed: int, length: int = 30) -> str:
    return " ".join(random.Random(seed).sample(WORDS, length))


def test_below_1_the_threshold_is_a_share_of_shingles():
    """Also for a pair exactly at it, and with thresholds of few bands and many."""
    original = sentence(1)
    last_word_changed = original.rsplit(" ", 1)[0] + " other"  # 25 of 27 shingles shared
    half_changed = " ".join(original.split()[:15] + sentence(2).split()[:15])  # 11 of 41
    texts = [original, last_word_changed, half_changed, sentence(3)]
    for threshold, found in (
        (1, set()),
        (25 / 27 + 1e-9, set()),
        (25 / 27, {1}),
        (11 / 41 + 1e-9, {1}),
        (11 / 41, {1, 2}),
    ):
        assert set(find_near_duplicates(texts, threshold)) == found, threshold


def test_every_pair_above_a_threshold_is_found_among_many():
    texts = [sentence(seed) for seed in range(300)]
    copies = [text.rsplit(" ", 1)[0] + " changed" for text in texts]
    assert find_near_duplicates(texts + copies, 0.8) == {300 + n: n for n in range(300)}


def test_bands_are_as_wide_as_the_recall_allows():
    """Narrower ones would find the pairs too, but with needless comparisons."""
    assert [band_rows(threshold) for threshold in (0.3, 0.5, 0.8, 0.95, 1)] == [2, 2, 4, 16, 128]


def test_short_and_empty_texts():
    texts = ["Tell a joke", "tell a joke!", "Tell a story", "", ""]
    assert find_near_duplicates(texts, 1) == find_near_duplicates(texts, 0.8) == {1: 0, 4: 3}
    assert find_near_duplicates([], 1) == find_near_duplicates([], 0.8) == {}
