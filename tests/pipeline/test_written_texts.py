"""The texts that humans write keep what the stages rely on."""

import json
import re
import statistics
import subprocess
import sys

import pytest

PRINCIPLES = [
    "ethical",
    "informative",
    "helpful",
    "question assessment",
    "reasoning",
    "multi-aspect",
    "candor",
    "knowledge recitation",
    "static",
    "clarification",
    "numerical sensitivity",
    "dated knowledge",
    "step-by-step",
    "balanced perspectives",
    "creative",
    "operational",
    "multilingual",
]


@pytest.fixture(scope="module")
def principle_prompt(repository):
    return (repository / "prompts/watson_self_align_prompt.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def identity_conversations(repository):
    return json.loads((repository / "dummy_data/vicuna_dummy_data.json").read_text("utf-8"))


def test_principle_prompt_lists_the_seventeen_principles(principle_prompt):
    named = re.findall(r"^(\d+) \(([^)]+)\)\. ", principle_prompt, flags=re.MULTILINE)
    assert named == [(str(number), name) for number, name in enumerate(PRINCIPLES, start=1)]


def test_principle_prompt_opens_with_the_three_aims_and_fixes_no_year(principle_prompt):
    """The year that a model's knowledge ends with is the base model's, not the prompt's."""
    assert "helpful, ethical and reliable" in principle_prompt.split("\n\n")[1]
    assert not re.search(r"\b(?:19|20)\d\d\b", principle_prompt)


def test_every_thought_opens_as_required_and_names_principles_correctly(
    principle_prompt, repository
):
    required = (repository / "prompts/required_opening.txt").read_text(encoding="utf-8").strip()
    thoughts = re.findall(r"^Watson \(internal thoughts\): (.*)$", principle_prompt, re.MULTILINE)
    assert len(thoughts) == 7
    for thought in thoughts:
        assert thought.startswith(required + " ")
        named = re.findall(r"[Pp]rinciple (\d+) \(([^)]+)\)", thought)
        assert named, thought
        for number, name in named:
            assert PRINCIPLES[int(number) - 1] == name


def test_principle_prompt_closes_each_conversation_and_ends_with_the_cue(principle_prompt):
    assert principle_prompt.endswith("\n\nUser:")
    closings = principle_prompt.count("\n\nUser: Good job! Clear context\n\nWatson (auto reply): ")
    assert closings == 6


def test_worked_conversations_show_each_kind_of_request(principle_prompt):
    """A refusal, a calculation, a disputed question, a list, code, another language."""
    replies = re.findall(r"^Watson: (.*?)(?=^User:)", principle_prompt, re.MULTILINE | re.DOTALL)
    wanted = (
        "I won't help with that",
        "882 × 1.05",
        "Supporters reply",
        "\n2. ",
        "```",
        "No conozco",
    )
    for phrase in wanted:
        assert any(phrase in reply for reply in replies), phrase
    assert statistics.mean(map(len, replies)) >= 500


def test_principle_prompt_has_the_planned_length(principle_prompt, shared_data):
    """It fits the published shared room of 2,816 tokens; thoughts are short, replies long."""
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(shared_data / "tokenizers/llama2_tokenizer.model")
    )
    assert 2400 <= len(tokenizer.encode(principle_prompt)) <= 2600
    thoughts = re.findall(r"^Watson \(internal thoughts\): (.*)$", principle_prompt, re.MULTILINE)
    assert statistics.mean(len(tokenizer.encode(thought)) for thought in thoughts) <= 57


def test_blacklist_phrases_stand_in_the_worked_conversations(principle_prompt, repository):
    """A phrase that no example contains could only drop innocent replies."""
    lines = (repository / "prompts/exemplar_blacklist.txt").read_text("utf-8").splitlines()
    phrases = [line.split("\t")[0] for line in lines if line and not line.startswith("#")]
    assert len(phrases) >= 20
    for phrase in phrases:
        assert phrase.lower() in principle_prompt.lower(), phrase


def test_inference_prompts_end_with_the_users_marker(repository):
    files = sorted((repository / "prompts/inference_prompts").glob("dromedary_*_distill.txt"))
    assert [file.stem.split("_")[1] for file in files] == [
        "concise",
        "multilingual",
        "standard",
        "verbose",
    ]
    for file in files:
        assert file.read_text(encoding="utf-8").endswith("\n\n### User\n")


def test_identity_data_is_large_varied_and_has_no_name_in_it(identity_conversations):
    texts = [json.dumps(record["conversations"]) for record in identity_conversations]
    questions = {record["conversations"][0]["value"] for record in identity_conversations}
    answers = {record["conversations"][1]["value"] for record in identity_conversations}
    assert len(texts) == len(set(texts)) >= 900
    assert len(questions) >= 80
    assert len(answers) >= 20
    assert any("{assistant_name}" in text for text in texts)
    assert not any("Dromedary" in text or "Self-Align" in text for text in texts)


def test_identity_answers_are_whole_sentences_in_their_own_language(repository):
    """ "the Self-Align team" stood in Spanish and Chinese answers, and opened English sentences."""
    entries = json.loads((repository / "dummy_data/identity_texts.json").read_text("utf-8"))
    for entry in entries:
        for answer in entry["answers"]:
            filled = answer.replace("{assistant_name}", "Dromedary").replace(
                "{developer_name}", "Self-Align"
            )
            maker = "{developer}"
            assert entry["language"] == "en" or maker not in answer, answer
            sentences = re.split(r"(?<=[.!?]) ", filled.replace(maker, "the Self-Align team"))
            assert not any(sentence[0].islower() for sentence in sentences), answer


def test_identity_answers_claim_nothing_that_a_base_model_may_make_false(repository):
    """The base may be anybody's, its licence and its last year of training unknown."""
    text = (repository / "dummy_data/identity_texts.json").read_text("utf-8").lower()
    for claim in ("open-source", "open source", "no connection", "model of my own", "202"):
        assert claim not in text, claim


def test_identity_data_is_what_its_script_makes(repository, tmp_path):
    script = repository / "dummy_data/make_dummy_data.py"
    remade = tmp_path / "remade.json"
    subprocess.run([sys.executable, script, "--output_file", remade], check=True)
    assert remade.read_bytes() == (repository / "dummy_data/vicuna_dummy_data.json").read_bytes()
