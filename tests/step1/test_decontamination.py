"""Prompts that give a benchmark's question away, and those that only look like it."""

import json
import random

import pytest
from command_line import InputError
from decontamination import BenchmarkQuestions
from prompt_sources import find_sources

LONG_QUESTION = (
    "Imagine that you are a medieval knight who has to explain to a curious child "
    "why castles were built on hills and what they were for"
)
QUESTIONS = [
    "What happens to a letter that is posted without a stamp in a country that has no post?",
    "Which of the four bridges over the harbour was closed to heavy lorries after the storm?",
    "How many candles does a lighthouse keeper burn in a winter if every night needs three?",
    "Why do some bakers put a bowl of boiling water into the oven together with the bread?",
    "If a clock loses two minutes an hour, when does it show noon after a week of neglect?",
    "Can a person who has never seen snow learn to drive a sledge pulled by several dogs?",
    "What did the miller's daughter promise the ferryman in return for crossing the flooded river?",
    "Is it legal to keep a hedgehog as a pet in a rented flat without asking the owner?",
]
SYNONYMS = {
    "country": "land", "closed": "shut", "winter": "season", "boiling": "steaming", "week": "month",
    "learn": "begin", "promise": "offer", "legal": "allowed",
}  # fmt: skip


def question_list(*texts: str) -> BenchmarkQuestions:
    questions = BenchmarkQuestions()
    for text in texts:
        questions.add(text, "benchmark")
    return questions


def changed_copies() -> list[str]:
    """Each question five times: a word changed, added, misspelt, left out, inside other words."""
    draw, copies = random.Random(0), []
    for question in QUESTIONS:
        words = question.split()
        word = next(word for word in SYNONYMS if word in words)
        copies.append(question.replace(word, SYNONYMS[word]))
        place = draw.randrange(2, len(words) - 2)
        copies.append(" ".join([*words[:place], "really", *words[place:]]))
        long = draw.choice([n for n, w in enumerate(words) if len(w) > 5 and w.isalpha()])
        copies.append(question.replace(words[long], words[long][:3] + words[long][4:]))
        copies.append(" ".join(words[:place] + words[place + 1 :]))
        copies.append(
            f"Please answer for my class: {question.replace(word, SYNONYMS[word])} Thanks."
        )
    return copies


def test_changed_copies_of_long_questions_are_found(capsys):
    questions, copies = question_list(*QUESTIONS), changed_copies()
    found = sum(questions.find(copy) is not None for copy in copies)
    with capsys.disabled():
        print(f"\nchanged benchmark questions: {found} of {len(copies)} found")
    assert len(copies) == 40 and found >= 38


def test_normal_prompts_are_no_leaks(shared_data, capsys):
    """Dolly's instructions against other questions that people really ask."""
    raw = shared_data / "raw"
    rows = map(json.loads, (raw / "dolly_sample.jsonl").open(encoding="utf-8"))
    sources = find_sources([str(raw / "vicuna_bench_question.jsonl")], "--decontaminate_against")
    questions = BenchmarkQuestions.from_sources(sources)
    for question in QUESTIONS:
        questions.add(question, "ours")
    prompts = [row["instruction"] for row in rows]
    hits = [prompt for prompt in prompts if questions.find(prompt)]
    with capsys.disabled():
        print(f"\nnormal prompts: {len(hits)} of {len(prompts)} taken for benchmark questions")
    assert len(hits) <= len(prompts) / 2000


def test_another_name_or_number_is_another_question():
    questions = question_list(
        "In which year did the painter Anna Holt open her second school in the town of Bergen?"
    )
    asked = "In which year did the painter {} open her second school in the town of Bergen?"
    assert questions.find(asked.format("Anna Holt"))
    assert questions.find(asked.format("Anna Holm")) is None
    assert questions.find("In which year did a painter open a school?") is None


def test_the_words_must_lie_together():
    questions = question_list(QUESTIONS[0])
    scattered = (
        "A letter came. " + "I read on. " * 9 + "No stamp. " + "I sat. " * 9 + "A country post."
    )
    assert questions.find(scattered) is None


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


def test_a_question_of_everyday_words_leaks_only_alone():
    questions = question_list("What do you do?", "Who am I?", "Why?")
    assert questions.find("what do you do") and questions.find("why")
    assert questions.find("The train is late. What do you do? Tell it as a story.") is None
    assert questions.find("Tell me who am I in this story") is None
    assert questions.find("Why is the sky blue?") is None


def test_questions_of_all_formats_are_found(write_json, tmp_path):
    sources = [
        write_json([{"turns": ["What is brown bread?", "And then what is rye?"]}], "mt.jsonl"),
        write_json([{"question": "What is oat cake, really?"}], "truthful.json"),
        write_json([{"input": "What is corn flour, in fact?"}], "hhh_pairs.jsonl"),
    ]
    (tmp_path / "truthful.csv").write_text('Type,Question\nA,"What is wheat germ, though?"\n')
    names = [*map(str, sources), str(tmp_path / "truthful.csv")]
    questions = BenchmarkQuestions.from_sources(find_sources(names, "--decontaminate_against"))
    for text in ("what is brown bread", "and then what is rye", "what is oat cake really"):
        assert questions.find(text), text
    assert questions.find("what is corn flour in fact")
    assert questions.find("what is wheat germ though")[0].endswith("truthful.csv")


def test_a_file_without_questions_is_an_error(write_json):
    path = write_json([{"title": "no question here"}])
    with pytest.raises(InputError, match=r"no question found; --decontaminate_against reads"):
        BenchmarkQuestions.from_sources(find_sources([str(path)], "--decontaminate_against"))
