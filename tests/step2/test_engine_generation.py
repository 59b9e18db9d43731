"""A trained model's own words, and responses that depend on nothing but their prompt."""

import json
import random

import pytest
from step2.engine_runs import launch, run_case
from step2.tiny_models import training_text

REQUESTS = [(f"id {i}", f" Tell me {'more ' * (i % 5)}about number {i}.") for i in range(30)]
SAMPLED = {
    "prefix_text": training_text()[:400].rpartition("\n")[0] + "\n\nUser:",
    "requests": REQUESTS,
    "sampling": {"max_new_tokens": 16, "temperature": 0.8, "top_p": 0.95, "seed": 7},
    "max_own_tokens": 64,
    "dtype": "float32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def stories(shared_data):
    """A trained LLaMA of 260 thousand parameters, and what it says greedily."""
    folder = shared_data / "stories260K"
    reference = json.loads((folder / "greedy_reference.json").read_text())
    begin = len(reference["prompt_ids"])
    case = {
        "prefix_text": "",
        "requests": [("story", ""), ("again", "")],
        "sampling": {"temperature": 0, "max_new_tokens": len(reference["ids"]) - begin},
        "max_own_tokens": 300,
        "dtype": "float32",
        "device": "cpu",
    }
    return folder, case, tuple(reference["ids"][begin:]), reference["text"]


@pytest.mark.parametrize("kind", ["hf", "meta"])
def test_a_trained_model_tells_its_story_greedily(stories, kind):
    folder, case, expected, text = stories
    completions = run_case(str(folder / kind), **case)["completions"]
    assert len(expected) == 256
    for finish_reason, told, prompt_tokens, ids in completions.values():
        assert ids == expected
        assert (finish_reason, prompt_tokens) == ("length", 0)
        assert told.strip() == text.strip()


@pytest.fixture(scope="module")
def alone(tiny_model):
    """Each response drawn in a batch of its own."""
    return run_case(str(tiny_model("llama3")), **SAMPLED, slots=1)["completions"]


@pytest.mark.slow
def test_two_processes_tell_the_story_and_draw_the_same_tokens(
    stories, tiny_model, alone, tmp_path
):
    """Together as tensor-parallel ranks, and beside each other as groups."""
    folder, story, expected, _ = stories
    sampled = {**SAMPLED, "model_dir": str(tiny_model("llama3")), "slots": 8}
    cases = [
        {**story, "model_dir": str(folder / "hf")},
        {**story, "model_dir": str(folder / "meta")},
        {**sampled},
        {**sampled, "tensor_parallel": 1, "shares": True},
        {**sampled, "slots": 2, "drain_after": 10},
    ]
    ranks = launch(2, cases, tmp_path)
    for hf, meta, together, _, _ in ranks:
        for told in (hf, meta):
            assert {ids for *_, ids in told["completions"].values()} == {expected}
        assert together["completions"] == alone
    first, second = (results[3]["completions"] for results in ranks)
    assert first.keys().isdisjoint(second)
    assert first | second == alone
    drained, drained_too = (list(results[4]["completions"].items()) for results in ranks)
    assert drained == drained_too
    assert 10 <= len(drained) < len(REQUESTS), "the leader's wish to drain decides, and no other"
    assert dict(drained).items() <= alone.items()


@pytest.mark.slow
def test_ranks_that_sample_differently_stop_instead_of_hanging(tiny_model, tmp_path):
    sampling = {**SAMPLED["sampling"], "max_new_tokens": 24}
    case = {**SAMPLED, "sampling": sampling, "slots": 8, "seeds": [7, 8]}
    with pytest.raises(AssertionError, match=r"ranks of a group have come apart: rank 1 of group"):
        launch(2, [{**case, "model_dir": str(tiny_model("llama3"))}], tmp_path)


def test_the_same_tokens_in_a_batch_of_1_and_of_64(tiny_model, alone):
    assert run_case(str(tiny_model("llama3")), **SAMPLED, slots=64)["completions"] == alone
    drawn = [ids for *_, ids in alone.values()]
    assert len(set(drawn)) == len(REQUESTS), "prompts must not share their noise"


def test_the_same_tokens_in_any_order(tiny_model, alone):
    requests = random.Random(4).sample(REQUESTS, len(REQUESTS))
    case = {**SAMPLED, "requests": requests}
    assert run_case(str(tiny_model("llama3")), **case, slots=5)["completions"] == alone


def test_the_same_tokens_in_five_groups(tiny_model, alone):
    found = {}
    for group in range(5):
        case = {**SAMPLED, "requests": REQUESTS[group::5]}
        found |= run_case(str(tiny_model("llama3")), **case, slots=4)["completions"]
    assert found == alone


def test_another_seed_or_id_draws_other_tokens(tiny_model, alone):
    model = str(tiny_model("llama3"))
    other = {**SAMPLED, "sampling": {**SAMPLED["sampling"], "seed": 8}}
    reseeded = run_case(model, **other)["completions"]
    renamed = [(f"other {name}", text) for name, text in REQUESTS]
    for name, text in REQUESTS:
        assert reseeded[name][3] != alone[name][3], text
    completions = run_case(model, **{**SAMPLED, "requests": renamed})["completions"]
    assert all(completions[f"other {name}"][3] != alone[name][3] for name, _ in REQUESTS)
