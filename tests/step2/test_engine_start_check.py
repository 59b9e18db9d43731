"""The check at the start: what it accepts, what it replaces, and what it stops."""

import logging

import pytest
import torch
from engine import start_check
from engine.compiled_operations import CompiledOperations
from engine.engine import Engine, EngineSettings, Request, SamplingSettings
from engine.step_graphs import StepGraphs
from user_error import UserError

SAMPLING = SamplingSettings(temperature=0, max_new_tokens=6)


@pytest.fixture(scope="module")
def prompt(repository):
    return (repository / "prompts" / "watson_self_align_prompt.txt").read_text().rstrip()


@pytest.fixture(scope="module")
def make_engine(tiny_base_model, prompt):
    def make(model_dir=tiny_base_model, **changes):
        settings = {"max_own_tokens": 64, "slots": 8, "dtype": "float32", "device": "cpu"}
        settings |= {"sampling": SAMPLING, "start_check": True, **changes}
        return Engine(EngineSettings(model_dir, **{"prefix_text": prompt, **settings}))

    return make


def answers(engine):
    requests = [Request(str(i), f" What is {i}?\n\nWatson (internal thoughts):") for i in range(9)]
    return {c.request.id: c.output_ids for c in engine.generate(requests)}


@pytest.fixture(scope="module")
def reference(make_engine):
    return answers(make_engine(start_check=False))


def test_a_machine_that_computes_rightly_passes_and_its_slots_are_usable(make_engine, reference):
    engine = make_engine()
    check = engine.statistics.start_check
    assert check["replaced"] == []
    assert 0 < check["attention_error"] < 4e-6
    assert 0 < check["prompt_loss"] < 12  # nats; the tiny model has never seen this prompt
    assert answers(engine) == reference


@pytest.mark.parametrize("fault", ["wrong", "nan"])
def test_attention_that_disagrees_is_replaced(make_engine, reference, monkeypatch, caplog, fault):
    attend = CompiledOperations.own_attention

    def broken(self, *arguments):
        outputs = attend(self, *arguments)
        return outputs * torch.nan if fault == "nan" else outputs + 0.01 * outputs.abs().max()

    monkeypatch.setattr(CompiledOperations, "own_attention", broken)
    engine = make_engine()
    check = engine.statistics.start_check
    assert check["replaced"] == ["attention"] and check["attention_error"] > 0.005
    assert "taking plain" in caplog.text
    assert answers(engine) == reference


def test_a_base_model_that_cannot_predict_its_prompt_is_refused(
    tiny_model, make_engine, prompt, monkeypatch
):
    """Such as one whose config doesn't fit its weights; a tiny one need not know English."""
    arguments = tiny_model("llama3"), {"max_own_tokens": 32, "prefix_text": prompt[-900:]}
    make_engine(arguments[0], **arguments[1])
    monkeypatch.setattr(start_check, "SMALLEST_BASE_MODEL", 1000)
    with pytest.raises(UserError, match=r"with a loss of \d+\.\d\d a token, .* damaged or don't"):
        make_engine(arguments[0], **arguments[1])


def test_the_loss_is_logged(make_engine, caplog):
    caplog.set_level(logging.INFO)
    make_engine(start_check=None)
    assert "predicts the principle prompt with a loss of" in caplog.text
    assert ") in float32, 8 slots" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="graphs can be captured here")
@pytest.mark.parametrize("others", [True, False])
def test_where_graphs_cannot_be_captured_steps_run_without(caplog, others):
    asked = []

    def all_of_group(own):
        asked.append(own)
        return own and others

    graphs = StepGraphs(lambda tokens, positions: tokens + positions, 6, torch.device("cpu"))
    assert not graphs.capture(all_of_group)
    assert asked == [False]
    assert "CUDA graphs could not be captured here" in caplog.text
    tokens = torch.tensor([3, 4])
    assert graphs.run(tokens, tokens).tolist() == [6, 8]


def test_another_rank_without_graphs_means_none_here(monkeypatch, caplog):
    """Ranks with and without graphs would wait for each other."""
    graphs = StepGraphs(lambda tokens, positions: tokens, 6, torch.device("cpu"))
    monkeypatch.setattr(graphs, "_capture", lambda batch: (None, None))
    assert not graphs.capture(lambda own: False)
    assert not graphs.captured and "on another rank" in caplog.text
