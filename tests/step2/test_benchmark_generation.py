"""The generation benchmark: its work, its bound, and a whole small run of all ways."""

import importlib
import json
import os
import statistics
import sys
import venv
from pathlib import Path

import pytest
import torch
from engine.tokenizer import load_tokenizer

TINY = ("--size", "15m", "--dtype", "fp32", "--repeats", "1")


@pytest.fixture(scope="module")
def benchmark(repository):
    """Imports a module of scripts/benchmarks by name."""
    folder = str(repository / "scripts" / "benchmarks")
    sys.path.append(folder)
    yield importlib.import_module
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """The Python of an environment that holds no packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def test_more_prompts_begin_with_the_same_ones(benchmark):
    draw = benchmark("generation_workload").draw_workload
    few, many = (draw(1000, 50, count, None, 7) for count in (10, 20))
    assert many.first(10) == few
    assert draw(1000, 50, 10, None, 8).prompts != few.prompts


def test_lengths_are_exponential_and_cut_off(benchmark):
    draw = benchmark("generation_workload").draw_workload
    drawn = draw(10, 1, 20_000, None, 1).lengths
    assert (min(drawn), max(drawn)) == (1, 192)
    # an exponential of mean 64 stays above 64 with a chance of 1/e, above 192 with 1/e^3
    assert sum(length > 64 for length in drawn) / len(drawn) == pytest.approx(0.368, abs=0.015)
    assert sum(length == 192 for length in drawn) / len(drawn) == pytest.approx(0.05, abs=0.007)
    assert statistics.mean(drawn) == pytest.approx(61.3, abs=1.5)
    assert set(draw(10, 1, 50, 33, 1).lengths) == {33}


def test_texts_have_exactly_the_drawn_tokens(benchmark, tmp_path):
    model = benchmark("benchmark_model")
    model._write_tokenizer(tmp_path / "tokenizer.json", 100)
    tokenizer = load_tokenizer(tmp_path)
    workload = benchmark("generation_workload").draw_workload(100, 40, 1, None, 0)
    assert tokenizer.encode_prefix(workload.prefix_text) == workload.prefix
    anchor = workload.prefix_text.rpartition("\n")[2]
    own = " " + model.text_of(workload.prompts[0])
    assert tokenizer.encode_continuation(own, anchor) == workload.prompts[0]


@pytest.mark.parametrize(("slots", "tokens"), [(64, 11_200), (128, 18_400), (256, 26_200)])
def test_bound_of_an_8b_on_an_h100(benchmark, slots, tokens):
    """Computed by hand: prefix 2,560, prompts of 100 tokens, responses of 200."""
    workload = benchmark("generation_workload").Workload(
        [0] * 2560, [[0] * 100] * slots, [200] * slots
    )
    roofline = benchmark("roofline")
    device = roofline.known_device("NVIDIA H100 80GB HBM3")
    size = benchmark("benchmark_model").SIZES["8b"]
    bound = roofline.bound(size, device, workload, slots, 2)["tokens_per_second"]
    assert bound == pytest.approx(tokens, rel=0.05)


def test_sizes_are_what_their_names_say(benchmark):
    # the table of embeddings is as large as the head; Llama 3.2 1B has one matrix for both
    sizes = benchmark("benchmark_model").SIZES
    weights = {name: size.layer_weights + 2 * size.head_weights for name, size in sizes.items()}
    named = {"15m": 15e6, "120m": 125e6, "1b": 1.24e9 + sizes["1b"].head_weights, "8b": 8.03e9}
    assert weights == pytest.approx(named, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "0"], "--prompts is 0"),
        (["--scaling", "--prefix_tokens", "500"], "--prefix_tokens is 500"),
        (["--output_json", "no/such/folder/out.json"], "there is no folder no/such/folder"),
        (["--bandwidth", "1e12"], "--bandwidth and --flops"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--vllm_python", "no/such/python"], "no/such/python is not a Python"),
        (["--vllm_python", os.devnull], f"{os.devnull} is not a Python"),
        (["--scaling", "--vllm_python", sys.executable], "leave out --vllm_python"),
    ],
)
def test_flags_are_checked_before_any_work(benchmark, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["benchmark_generation.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        benchmark("benchmark_generation").parse_args()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_environment_without_vllm_is_refused(benchmark, bare_python):
    with pytest.raises(ValueError, match=r"could not import vllm \(ModuleNotFoundError: No mod"):
        benchmark("vllm_peer").find_vllm(bare_python)


def test_vllm_that_cannot_start_says_why(benchmark, bare_python, tmp_path):
    workload = benchmark("generation_workload").draw_workload(100, 40, 2, None, 0)
    peer = benchmark("vllm_peer").VllmPeer
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'vllm'"):
        peer(bare_python, tmp_path, torch.float32, workload, 2)
    with pytest.raises(RuntimeError, match="process ended with exit code 1"):
        peer(Path("/bin/false"), tmp_path, torch.float32, workload, 2)


@pytest.mark.slow
def test_all_ways_give_the_same_greedy_tokens(run_script, tmp_path):
    output = tmp_path / "results.json"
    # this seed gives prompts of 54, 87, 49, 20, 43 tokens, responses of 9, 21, 1, 3, 18
    seed = ("--seed", 598, "--prompts", 5)
    work = (*seed, "--slots", 2, "--prefix_tokens", 70, "--temperature", 0)
    machine = ("--bandwidth", 1e12, "--flops", 1e14)
    run = run_script(
        "scripts/benchmarks/benchmark_generation.py",
        *(*TINY, *work, *machine, "--output_json", output),
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(output.read_text())
    ways = results["ways"]
    assert set(ways) == {"engine", "static", "continuous", "first"}
    assert results["same_tokens"] == {
        name: {"prompts": 5, "same": 5} for name in ("static", "continuous", "first")
    }
    for way in ways.values():
        assert way["tokens_per_second"] == pytest.approx(way["useful_tokens"] / way["seconds"][0])
        assert way["useful_tokens"] == 52
        assert 0 < way["mean_live_slots"] <= 2
    # batches of two prompts of similar length, each as long as its longest response
    assert ways["static"]["steps"] == ways["first"]["steps"] == 18 + 9 + 21
    assert results["engine"]["peak_bytes"] > results["engine"]["planned_bytes"] > 0
    assert min(results["step"].values()) > 0
    assert 0 < results["roofline"]["share"] < 1
    assert "| engine | 5 |" in run.stdout


@pytest.mark.slow
@pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON names no environment")
def test_vllm_gives_the_same_greedy_tokens(run_script, tmp_path):
    """Twice, as vLLM's cache would otherwise still hold the prompts of the first run."""
    output = tmp_path / "results.json"
    # vLLM's attention on CPU has no heads of 48 numbers, so not the smallest model
    model = ("--size", "120m", "--dtype", "fp32", "--repeats", 2)
    work = ("--seed", 598, "--prompts", 5, "--slots", 2, "--prefix_tokens", 70)
    vllm = ("--peers", "--vllm_python", os.environ["VLLM_PYTHON"])
    run = run_script(
        "scripts/benchmarks/benchmark_generation.py",
        *(*model, *work, *vllm, "--temperature", 0, "--output_json", output),
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(output.read_text())
    assert set(results["ways"]) == {"engine", "vllm"}
    assert results["same_tokens"] == {"vllm": {"prompts": 5, "same": 5}}
    vllm = results["ways"]["vllm"]
    assert (vllm["prompts"], vllm["useful_tokens"], len(vllm["seconds"])) == (5, 52, 2)
    assert 1 < vllm["mean_live_slots"] <= 2
    assert results["versions"]["vllm"]


@pytest.mark.slow
def test_scaling_compares_the_engine_with_itself(run_script, tmp_path):
    output = tmp_path / "results.json"
    work = ("--scaling", "--prompts", 2, "--slots", 2, "--prefix_tokens", 640)
    run = run_script(
        "scripts/benchmarks/benchmark_generation.py",
        *(*TINY, *work, "--fixed_length", 4, "--output_json", output),
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(output.read_text())
    assert set(results["ways"]) == {"prefix 600", "prefix 640", "4 prompts"}
    assert results["scaling"]["tokens_of_twice_the_prompts"] == 2
    assert results["scaling"]["time_of_twice_the_prompts"] > 1
