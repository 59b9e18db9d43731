"""The generation benchmark: its work, its bound, and a whole small run of all ways."""

import importlib
import json
import os
import statistics
import sys
from pathlib import Path

import pytest
import torch
from engine.tokenizer import load_tokenizer

SCRIPT = "scripts/benchmarks/benchmark_generation.py"


@pytest.fixture(scope="module")
def benchmark(repository):
    """Imports a module of scripts/benchmarks by name."""
    folder = str(repository / "scripts" / "benchmarks")
    sys.path.append(folder)
    yield importlib.import_module
    sys.path.remove(folder)


def test_more_prompts_begin_with_the_same_ones(benchmark):
    draw = benchmark("generation_workload").draw_workload
    few, many = (draw(1000, 50, count, 7) for count in (10, 20))
    assert many.first(10) == few
    assert draw(1000, 50, 10, 8).prompts != few.prompts


def test_lengths_are_exponential_and_cut_off(benchmark):
    drawn = benchmark("generation_workload").draw_workload(10, 1, 20_000, 1).lengths
    assert (min(drawn), max(drawn)) == (1, 192)
    # an exponential of mean 64 stays above 64 with a chance of 1/e, above 192 with 1/e^3
    assert sum(length > 64 for length in drawn) / len(drawn) == pytest.approx(0.368, abs=0.015)
    assert sum(length == 192 for length in drawn) / len(drawn) == pytest.approx(0.05, abs=0.007)
    assert statistics.mean(drawn) == pytest.approx(61.3, abs=1.5)


def test_texts_have_exactly_the_drawn_tokens(benchmark, tmp_path):
    model = benchmark("random_model")
    size = model.ModelSize(8, 1, 1, 1, 8, 100)
    model.write_model(tmp_path, size, torch.float32, torch.device("cpu"), 0)
    tokenizer = load_tokenizer(tmp_path)
    workload = benchmark("generation_workload").draw_workload(100, 40, 1, 0)
    assert tokenizer.encode_prefix(workload.prefix_text) == workload.prefix
    anchor = workload.prefix_text.rpartition("\n")[2]
    own = " " + model.text_of(workload.prompts[0])
    assert tokenizer.encode_continuation(own, anchor) == workload.prompts[0]


@pytest.mark.parametrize(("slots", "tokens"), [(64, 11_200), (128, 18_400), (256, 26_200)])
def test_bound_of_an_8b_on_an_h100(benchmark, slots, tokens):
    """Computed by hand: prefix 2,560, prompts of 100 tokens, responses of 200."""
    work = benchmark("generation_workload")
    workload = work.Workload([0] * 2560, [[0] * 100] * slots, [200] * slots)
    size, limits = benchmark("random_model").SIZES["8b"], work.KNOWN_LIMITS["H100"]
    bound = work.most_tokens_per_second(size, limits, workload, slots, 2)
    assert bound == pytest.approx(tokens, rel=0.05)


def test_sizes_are_what_their_names_say(benchmark):
    # the table of embeddings is as large as the head; Llama 3.2 1B has one matrix for both
    sizes = benchmark("random_model").SIZES
    weights = {name: size.layer_weights + 2 * size.head_weights for name, size in sizes.items()}
    named = {"15m": 15e6, "120m": 125e6, "1b": 1.24e9 + sizes["1b"].head_weights, "8b": 8.03e9}
    assert weights == pytest.approx(named, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "0"], "--prompts is 0"),
        (["--output_json", "no/such/folder/out.json"], "there is no folder no/such/folder"),
        (["--vllm_python", "no/such/python"], "no/such/python is not a Python"),
        (["--vllm_python", os.devnull], f"{os.devnull} is not a Python"),
    ],
)
def test_flags_are_checked_before_any_work(benchmark, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["benchmark_generation.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        benchmark("benchmark_generation").parse_args()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_vllm_that_cannot_start_says_why(benchmark, tmp_path):
    workload = benchmark("generation_workload").draw_workload(100, 40, 2, 0)
    ways, device = benchmark("generation_ways"), torch.device("cpu")
    setting = ways.Setting(tmp_path, torch.float32, device, 2, 0.0, 1.0, 0)
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'vllm'"):
        ways.VllmWay(setting, workload, Path(sys.executable))
    with pytest.raises(RuntimeError, match="process ended with exit code 1"):
        ways.VllmWay(setting, workload, Path("/bin/false"))


@pytest.mark.slow
def test_all_ways_give_the_same_greedy_tokens(run_script, tmp_path):
    """Twice each, as a cache could still hold the prompts of the first run."""
    output, vllm = tmp_path / "results.json", os.environ.get("VLLM_PYTHON")
    # vLLM's attention on CPU has no heads of 48 numbers, so not the smallest model
    size = ("--size", "120m" if vllm else "15m", "--dtype", "fp32", "--repeats", 2)
    # this seed gives prompts of 54, 87, 49, 20, 43 tokens, responses of 9, 21, 1, 3, 18
    work = ("--seed", 598, "--prompts", 5, "--slots", 2, "--prefix_tokens", 70)
    machine = ("--limits", 1e12, 1e14, "--device", "cpu")
    others = ("--vllm_python", vllm) if vllm else ()
    run = run_script(
        SCRIPT, *size, *work, *machine, *others, "--temperature", 0, "--output_json", output
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(output.read_text())
    ways, names = results["ways"], ("static", "continuous", "first", *(["vllm"] if vllm else []))
    assert set(ways) == {"engine", *names}
    assert results["same_tokens"] == {name: {"prompts": 5, "same": 5} for name in names}
    for way in ways.values():
        middle = statistics.median(way["seconds"])
        assert way["tokens_per_second"] == pytest.approx(way["useful_tokens"] / middle)
        assert way["useful_tokens"] == 52
        assert 0 < way["mean_live_slots"] <= 2 + 1  # a step can also bring a prompt's first token
    # batches of two prompts of similar length, each as long as its longest response
    assert ways["static"]["steps"] == ways["first"]["steps"] == 18 + 9 + 21
    assert results["engine"]["peak_bytes"] > results["engine"]["planned_bytes"] > 0
    assert 0 < results["bound"]["share"] < 1
    assert "| engine | 5 |" in run.stdout
