"""The memory plan against what the engine really allocates, and what it refuses."""

import re

import pytest
import torch
from engine import device as device_module
from engine.attention import KeyValueCache
from engine.decoder import Decoder
from engine.device import available_memory
from engine.engine import Engine, EngineSettings, SamplingSettings, plan_memory
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


def plan_7b(ranks=1, available=80 * GIB, slots=64):
    sizes = {"prefix_tokens": 2560, "slots": slots, "own_tokens": 768, "available": available}
    return plan(LLAMA_2_7B, plan_heads(32, 32, ranks), torch.bfloat16, **sizes)


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
    message = r"64 slots need [\d.]+ GiB .*, and 30.00 GiB are available; give --slots 40 "
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
