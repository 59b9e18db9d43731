"""The texts that humans write keep what the stages rely on."""

import json
import re
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


def test_principle_prompt_has_the_planned_length(principle_prompt, shared_data):
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(shared_data / "tokenizers/llama2_tokenizer.model")
    )
    assert 2200 <= len(tokenizer.encode(principle_prompt)) <= 2700


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


def test_identity_data_is_what_its_script_makes(repository, tmp_path):
    script = repository / "dummy_data/make_dummy_data.py"
    remade = tmp_path / "remade.json"
    subprocess.run([sys.executable, script, "--output_file", remade], check=True)
    assert remade.read_bytes() == (repository / "dummy_data/vicuna_dummy_data.json").read_bytes()
