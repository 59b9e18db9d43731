"""The memory plan against what the engine really allocates, and what it refuses."""

import json
import re

import pytest
import torch
from engine import device as device_module
from engine.attention import KeyValueCache
from engine.decoder import Decoder
from engine.device import available_memory
from engine.engine import Engine, EngineSettings, SamplingSettings, describe_gpus, plan_memory
from engine.head_layout import plan_heads
from engine.memory_plan import plan
from engine.model_config import ModelConfig
from step2.tiny_models import FAMILIES
from user_error import UserError

GIB = 2**30
LLAMA_2_7B = ModelConfig(
    family="llama",
    hidden_size=4096,
    layers=32,
    query_heads=32,
    kv_heads=32,
    head_dim=128,
    feed_forward_size=11008,
    vocab_size=32000,
    norm_epsilon=1e-5,
    rope_theta=10000.0,
)


def settings(folder, **changes):
    sampling = SamplingSettings(max_new_tokens=8)
    common = {"slots": 5, "max_own_tokens": 70, "dtype": "float32", "device": "cpu"}
    return EngineSettings(folder, "# Rules\nUser:", sampling=sampling, **{**common, **changes})


def plan_7b(ranks=1, available=80 * GIB, slots=64, **others):
    sizes = {"prefix_tokens": 2560, "own_tokens": 768, "prefill_tokens": 512}
    sizes |= {"slots": slots, "available": available}
    return plan(LLAMA_2_7B, plan_heads(32, 32, ranks), torch.bfloat16, **sizes, **others)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_counts_what_the_engine_allocates(tiny_model, family, monkeypatch):
    made = {}

    def keep(self, model, cache, device, init=Decoder.__init__):
        made.update(model=model, cache=cache)
        init(self, model, cache, device)

    monkeypatch.setattr(Decoder, "__init__", keep)
    Engine(settings(tiny_model(family)))
    planned = plan_memory(settings(tiny_model(family)))
    parameters = sum(p.nbytes for p in made["model"].parameters())
    assert parameters == pytest.approx(planned.weights, rel=0.01)
    cache: KeyValueCache = made["cache"]
    assert cache.prefix.nbytes == planned.prefix
    assert cache.own.nbytes == planned.slots * planned.slot
    assert planned.total > parameters + cache.prefix.nbytes + cache.own.nbytes


def test_the_sizes_of_a_7b_model():
    planned = plan_7b()
    assert planned.weights == pytest.approx(6.74e9 * 2, rel=0.01)
    assert planned.slot == 768 * 2 * 32 * 4096 * 2  # 0.5 MiB a token
    assert planned.prefix == pytest.approx(2560 * 2 * 32 * 4096 * 2, rel=0.02)
    assert planned.workspace < 1.25 * GIB


def test_ranks_share_weights_and_slots():
    one, four = plan_7b(), plan_7b(ranks=4)
    assert four.weights == pytest.approx(one.weights / 4, rel=0.01)
    assert four.slot == one.slot // 4


@pytest.mark.parametrize("available", [20, 40, 640, 6400])
def test_the_most_slots_that_fit_are_named_exactly(available):
    """Pins a remedy that was too small: the room for logits and scores grows with the slots too."""
    most = plan_7b(available=available * GIB).largest_slots
    plan_7b(available=available * GIB, slots=most).check()
    with pytest.raises(UserError, match=f"give --slots {most} or fewer"):
        plan_7b(available=available * GIB, slots=most + 1).check()
    assert plan_7b(available=available * GIB, slots=10**7).largest_slots == most


def test_a_refusal_names_the_need_the_limit_and_the_remedy():
    message = r"--slots 64 needs [\d.]+ GiB .*, and 30.00 GiB are available; give --slots 40 "
    with pytest.raises(UserError, match=message):
        plan_7b(available=30 * GIB).check()
    with pytest.raises(UserError, match=r"not even one slot fits: .*--tensor_parallel"):
        plan_7b(available=10 * GIB).check()


def test_too_many_slots_are_refused_before_any_weight_is_read(tiny_model, tmp_path):
    source = tiny_model("llama2")
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(UserError, match=r"give --slots \d+ or fewer"):
        Engine(settings(tmp_path, slots=10**9))
    shown = str(plan_memory(settings(tmp_path)))
    assert re.search(r"weights .* prefix .* 5 slots .* workspace .* the most slots that fit", shown)


@pytest.mark.parametrize(("available", "expected"), [(20, 12), (40, 60), (640, 512)])
def test_slots_left_open_are_as_many_as_are_of_use_on_a_gpu(available, expected):
    """Pins 64 slots everywhere, which used a fifth of a large GPU."""
    planned = plan_7b(available=available * GIB, slots=None, on_gpu=True, flash=True)
    assert planned.slots == expected
    assert planned.slots == min(512, int(0.9 * planned.largest_slots))
    planned.check()


def test_slots_left_open_on_a_cpu():
    assert plan_7b(available=640 * GIB, slots=None).slots == 64
    little = plan_7b(available=18 * GIB, slots=None)
    assert little.slots == little.largest_slots < 64
    with pytest.raises(UserError, match="not even one slot fits"):
        plan_7b(available=10 * GIB, slots=None).check()


def test_the_gpus_that_would_do_are_told_without_one(tiny_model, tmp_path):
    """Needs config and tokenizer only."""
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((tiny_model("llama2") / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    large = {"hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8}
    large |= {"head_dim": 128, "intermediate_size": 28672, "num_hidden_layers": 80}
    (tmp_path / "config.json").write_text(json.dumps({**config, **large, "dtype": "bfloat16"}))
    told = describe_gpus(settings(tmp_path, dtype="auto"))
    rows = {line.split()[0]: line.split() for line in told.splitlines()[2:]}
    assert rows["8"][1:7:2] == ["15.942", "0.001", "0.003"]  # GiB: weights, prefix, a slot
    assert "bfloat16" in told
    assert [*rows] == ["1", "2", "4", "8"]
    assert rows["1"][-4:] == ["none"] * 4
    assert int(rows["4"][-4]) > 512 and rows["4"][-2:] == ["none"] * 2
    assert int(rows["8"][-4]) > int(rows["8"][-3]) > int(rows["8"][-2]) > 64


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device_module, "_linux_available", lambda: 24 * GIB)
    monkeypatch.setattr(device_module, "CGROUP_LIMIT", device_module.Path("/nowhere"))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert available_memory(cpu) == 24 * GIB
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert available_memory(cpu) == 2 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    assert available_memory(cpu) == 4 * GIB


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(device_module, "CGROUP_LIMIT", tmp_path / "memory.max")
    for text, limited in (("max\n", False), ("1000000\n", True)):
        (tmp_path / "memory.max").write_text(text)
        assert (available_memory(torch.device("cpu")) == 1000000) == limited
