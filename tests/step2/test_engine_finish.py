"""How responses end, with a model that recites what the tests give it.

The recited texts are cut into tokens where it hurts: in the middle of markers and characters.
"""

import json
import shutil

import pytest
import torch
from engine.engine import Engine, EngineSettings, Request, SamplingSettings
from safetensors.torch import load_file, save_file
from step2.tiny_models import END, make_reciting_model
from user_error import UserError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CAMEL = [f"<{byte:02x}>" for byte in "🐪".encode()]
GREEDY = SamplingSettings(temperature=0, max_new_tokens=24)
PREFIX = "# Rules\n\nUser:"
RECITALS = {
    "[stop]": [
        " Hm.",
        "\n",
        "\nWat",
        "son:",
        " Yes ",
        *CAMEL,
        ".\n",
        "\nUs",
        "er",
        ": no",
        " more",
    ],
    "[eos]": [" Let me see.\nUser: wait\n", "\n\nWatson: Well", " done.", END],
    "[length]": [" On and", " on"],
    "[cut]": [" Half a camel: ", "<c3>"],
    "[abandoned]": [" I would rather not", " ever"],
    "[inline]": [" A", "\nWatson: say User: to him", "\n User: indented", "\nUser", ":"],
}
EXPECTED = {
    "[stop]": ("stop", " Hm.\n\nWatson: Yes 🐪.\n", 13),
    "[eos]": ("eos", " Let me see.\nUser: wait\n\n\nWatson: Well done.", 4),
    "[length]": ("length", " On and" + " on" * 23, 24),
    "[cut]": ("length", " Half a camel: " + "\ufffd" * 23, 24),
    "[abandoned]": ("length", " I would rather not" + " ever" * 23, 24),
    "[inline]": ("stop", " A\nWatson: say User: to him\n User: indented", 5),
}


@pytest.fixture(scope="module")
def reciting_model(tmp_path_factory):
    return make_reciting_model(tmp_path_factory.mktemp("reciting"), RECITALS)


@pytest.fixture(scope="module", params=DEVICES)
def engine(reciting_model, request):
    return make_engine(reciting_model, request.param)


def make_engine(folder, device="cpu", **changes):
    settings = {"slots": 3, "max_own_tokens": 64, "dtype": "float32", "sampling": GREEDY}
    settings |= {"device": device, **changes}
    return Engine(EngineSettings(folder, PREFIX, **settings))


def ends(completions):
    return {c.request.id: (c.finish_reason, c.text, c.output_tokens) for c in completions}


def test_each_way_to_end(engine):
    requests = [Request(name, f" Go {name}") for name in RECITALS]
    assert ends(engine.generate(requests)) == EXPECTED


def test_a_freed_slot_serves_the_next_prompt_from_its_beginning(engine):
    requests = [Request(f"{name} {i}", f" Go {name}") for i in range(7) for name in RECITALS]
    found = ends(engine.generate(requests))
    assert found == {f"{name} {i}": EXPECTED[name] for i in range(7) for name in RECITALS}


def test_a_request_can_bound_its_own_response(engine):
    requests = [Request("a", " Go [length]", 1), Request("b", " Go [stop]", 3)]
    found = ends(engine.generate(requests))
    assert found == {"a": ("length", " On and", 1), "b": ("length", " Hm.\n\nWat", 3)}


def test_a_prompt_without_room_for_a_response_is_told_so_and_not_cut(engine):
    longest = 64 - 24
    requests = [Request("first", "[length]" * 80), Request("last", "[length]" * longest)]
    requests += [Request("stop", " Go [stop]"), Request("over", "[length]" * (longest + 1))]
    completions = {c.request.id: c for c in engine.generate(requests)}
    assert ends(completions.values())["first"] == ("too_long", "", 0)
    assert ends(completions.values())["over"] == ("too_long", "", 0)
    assert completions["over"].prompt_tokens == longest + 1
    assert completions["last"].finish_reason == "length"
    assert ends(completions.values())["stop"] == EXPECTED["[stop]"]


def test_only_prompts_without_room(engine):
    requests = [Request(str(i), "[length]" * 80) for i in range(20)]
    assert set(ends(engine.generate(requests)).values()) == {("too_long", "", 0)}
    assert list(engine.generate([])) == []


def test_what_is_given_up_ends_early_and_changes_nothing_else(engine):
    requests = [Request(f"{name} {i}", f" Go {name}") for i in range(4) for name in RECITALS]
    seen = []

    def give_up(request, text):
        seen.append((request.id, text))
        return "rather not" in text

    found = ends(engine.generate(requests, give_up=give_up))
    for name, end in found.items():
        expected = EXPECTED[name.split()[0]]
        if name.startswith("[abandoned]"):
            assert end[0] == "abandoned"
            assert end[2] < expected[2]
            assert expected[1].startswith(end[1])
        else:
            assert end == expected
    assert seen, "give_up was never asked"
    for name, text in seen:
        assert EXPECTED[name.split()[0]][1].startswith(text.rstrip("\ufffd"))


def test_a_drain_drops_the_unfinished_and_the_engine_can_go_on(engine):
    requests = [Request(f"{name} {i}", f" Go {name}") for i in range(20) for name in RECITALS]
    finished = []
    for completion in engine.generate(requests, should_drain=lambda: len(finished) >= 10):
        finished.append(completion)
    assert 10 <= len(finished) < 60
    done = {c.request.id for c in finished}
    finished += engine.generate([r for r in requests if r.id not in done])
    assert len(finished) == len(requests)
    assert ends(finished) == {r.id: EXPECTED[r.id.split()[0]] for r in requests}


def test_requests_are_read_as_they_are_needed(engine):
    """Hundreds of thousands of prompts needn't be in memory at once."""
    read = []

    def requests():
        for i in range(200):
            read.append(i)
            yield Request(str(i), " Go [length]")

    next(iter(engine.generate(requests())))
    assert len(read) <= 12


def test_statistics_count_what_happened(reciting_model):
    engine = make_engine(reciting_model)
    completions = list(engine.generate(Request(name, f" Go {name}") for name in RECITALS))
    statistics = engine.statistics
    assert statistics.output_tokens == sum(c.output_tokens for c in completions)
    assert statistics.prompt_tokens == sum(c.prompt_tokens for c in completions)
    assert statistics.prefix_tokens == len(engine.tokenizer.encode_prefix(PREFIX))
    assert statistics.slot_steps == statistics.output_tokens - len(completions)
    assert 1 <= statistics.slot_steps / statistics.steps <= 3
    assert statistics.peak_memory_bytes > 0
    assert {"load", "prefix", "prefill", "decode", "sampling", "text"} <= statistics.seconds.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": 0}, "--slots is 0"),
        ({"max_own_tokens": 24}, "--max_own_tokens 24 leaves no room .*--max_new_tokens 24"),
        ({"dtype": "int8"}, "--dtype int8; choose auto, float32, bfloat16, float16"),
        ({"max_own_tokens": 3000}, "come to 30.., and the model's max_position_embeddings is 2048"),
        ({"device": "tpu"}, "--device tpu; choose auto, cpu or cuda"),
        ({"tensor_parallel": 0}, "1 processes don't divide into groups of --tensor_parallel 0"),
        ({"tensor_parallel": 3}, "1 processes don't divide into groups of --tensor_parallel 3"),
    ],
)
def test_settings_that_cannot_work_are_refused(reciting_model, changes, message):
    with pytest.raises(UserError, match=message):
        make_engine(reciting_model, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_told(reciting_model):
    with pytest.raises(UserError, match=r"no CUDA device here; give --device cpu"):
        make_engine(reciting_model, device="cuda")


def test_the_tokenizer_of_another_model_is_refused(tiny_model):
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens and the model 506"):
        make_engine(tiny_model("llama2"), tokenizer_path=tiny_model("llama3") / "tokenizer.json")


def test_llama_1_is_refused_by_its_name_as_it_cannot_hold_the_prompt(tiny_model, tmp_path):
    params = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6}
    (tmp_path / "params.json").write_text(json.dumps({**params, "vocab_size": -1}))
    shutil.copy(tiny_model("llama2") / "tokenizer.model", tmp_path)
    with pytest.raises(
        UserError, match=r"is 2048; by its params\.json this is LLaMA 1, which can't"
    ):
        make_engine(tmp_path, max_own_tokens=2048)


def spoil(folder, target, tensor, change):
    """A copy of a model's folder with a changed tensor."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights[tensor])
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("dtype", "tensor", "factor", "message"),
    [
        ("float32", "model.norm.weight", torch.nan, "the weights are damaged"),
        ("float32", "model.layers.1.self_attn.q_proj.weight", torch.nan, "weights are damaged"),
        ("bfloat16", "model.layers.1.self_attn.k_proj.weight", torch.nan, "weights are damaged"),
        ("float16", "model.layers.0.mlp.down_proj.weight", 1e6, "too large for float16; give --"),
    ],
)
def test_logits_that_are_no_numbers_end_the_run_before_it_begins(
    tiny_model, tmp_path, dtype, tensor, factor, message
):
    """Pins NaN in queries or keys, which the compiled attention swallowed, giving wrong text."""
    folder = spoil(tiny_model("llama3"), tmp_path / "broken", tensor, lambda w: w.mul_(factor))
    with pytest.raises(UserError, match=f"NaN behind the principle prompt: .*{message}"):
        make_engine(folder, dtype=dtype)


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_logits_that_are_no_numbers_end_the_run_in_the_midst_of_it(
    tiny_model, tmp_path, temperature
):
    """Rather than fill a data set with what they give: here only a prompt's own word is broken."""
    model = tiny_model("llama2")
    engine = make_engine(model)
    unused = engine.tokenizer.encode_continuation(" 7", "User:")[-1]
    assert unused not in engine.tokenizer.encode_prefix(PREFIX)
    embedding, norms = "model.embed_tokens.weight", lambda w: w[unused].fill_(torch.nan)
    folder = spoil(model, tmp_path / "broken", embedding, norms)
    sampling = SamplingSettings(temperature=temperature, max_new_tokens=24)
    engine = make_engine(folder, sampling=sampling)
    with pytest.raises(UserError, match=r"NaN in the response to '1', after 0 tokens: .* damaged"):
        list(engine.generate([Request("1", " 7")]))
