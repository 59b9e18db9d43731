"""What is read from config.json and params.json, and what is refused."""

import json
from dataclasses import asdict

import pytest
from engine.model_config import RopeScaling, load_model_config
from step2.tiny_models import FAMILIES, LLAMA_3_ROPE
from user_error import UserError

LLAMA_2 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}
OLD_ROPE = {name: value for name, value in LLAMA_3_ROPE.items() if name != "rope_theta"}
META_70B = {
    "dim": 8192,
    "multiple_of": 4096,
    "ffn_dim_multiplier": 1.3,
    "n_heads": 64,
    "n_kv_heads": 8,
    "n_layers": 80,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
META_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6}


def load(folder, config, name="config.json"):
    (folder / name).write_text(json.dumps(config))
    return load_model_config(folder)


def test_an_old_llama_2_config(tmp_path):
    config = load(tmp_path, LLAMA_2)
    assert (config.query_heads, config.kv_heads, config.head_dim) == (32, 32, 128)
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)
    assert (config.max_positions, config.eos_token_ids) == (4096, (2,))
    assert config.torch_dtype == "float16"
    assert not (config.tied_embeddings or config.qkv_bias or config.output_bias)


def test_rope_scaling_in_its_old_and_its_new_place(tmp_path):
    expected = RopeScaling(8.0, 1.0, 4.0, 64)
    old = {**LLAMA_2, "rope_theta": 500000.0, "rope_scaling": OLD_ROPE}
    new = {**LLAMA_2, "rope_parameters": LLAMA_3_ROPE}
    for config in (load(tmp_path, old), load(tmp_path, new)):
        assert (config.rope_theta, config.rope_scaling) == (500000.0, expected)
    linear = {**LLAMA_2, "rope_scaling": {"type": "linear", "factor": 2}}
    assert load(tmp_path, linear).rope_scaling == 2.0
    plain = {**LLAMA_2, "rope_scaling": None, "rope_parameters": {"rope_type": "default"}}
    assert load(tmp_path, plain).rope_scaling is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_as_transformers_writes_it(tiny_model, family):
    config = load_model_config(tiny_model(family))
    arguments = FAMILIES[family][1]
    heads = arguments["num_attention_heads"]
    assert (config.query_heads, config.kv_heads) == (heads, arguments["num_key_value_heads"])
    expected = arguments.get("head_dim", arguments["hidden_size"] // heads)
    assert config.head_dim == expected
    assert config.tied_embeddings == (family == "llama3")
    assert config.qkv_bias == (family in ("qwen2", "llama_with_biases"))
    assert config.output_bias == (family == "llama_with_biases")
    assert config.head_norms == (family == "qwen3")
    assert config.sliding_window == (1024 if family == "mistral" else None)


def test_ends_of_sequence_come_from_the_generation_config(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [128001, 128009]}')
    assert load(tmp_path, LLAMA_2).eos_token_ids == (128001, 128009)
    (tmp_path / "generation_config.json").write_text('{"temperature": 1.0}')
    assert load(tmp_path, LLAMA_2).eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("params", "feed_forward"),
    [(META_7B, 11008), (META_70B, 28672), ({**META_7B, "hidden_dim": 7}, 7)],
)
def test_metas_feed_forward_width(tmp_path, params, feed_forward):
    assert load(tmp_path, params, "params.json").feed_forward_size == feed_forward


def test_metas_params(tmp_path):
    config = load(tmp_path, META_70B, "params.json")
    assert (config.query_heads, config.kv_heads, config.head_dim) == (64, 8, 128)
    assert (config.vocab_size, config.max_positions, config.rope_scaling) == (32000, 4096, None)
    llama_3 = {**META_70B, "vocab_size": 128256, "rope_theta": 500000.0}
    assert load(tmp_path, llama_3, "params.json").max_positions == 8192
    config = load(tmp_path, {**llama_3, "use_scaled_rope": True}, "params.json")
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)
    assert (config.vocab_size, config.max_positions) == (128256, 131072)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported; .* llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; only 'silu'"),
        ({"mlp_bias": True}, "mlp_bias is set"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is set"),
        ({"num_hidden_layers": 0}, r"config\.json: num_hidden_layers is 0; it must be a whole"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'; it must be a whole number above 0"),
        ({"vocab_size": [32000]}, r"vocab_size is \[32000\]; it must be a whole number"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'; it must be a number above 0"),
        ({"rope_theta": float("nan")}, "rope_theta is nan; it must be a number above 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; it must be true or false"),
        ({"rope_scaling": 8}, "holds no settings: it must be a JSON object"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "'yarn' is not supported; .*llama3"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4}}, "does not tell low_freq_factor"),
        ({"hidden_size": None}, r"config\.json does not tell hidden_size"),
        ({"num_key_value_heads": 5}, "32 attention heads can't share 5 key/value heads"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, {**LLAMA_2, **change})


def test_damaged_and_missing_configs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"neither config\.json .* nor params\.json"):
        load_model_config(tmp_path)
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(UserError, match=r"params\.json is not valid JSON"):
        load_model_config(tmp_path)
    with pytest.raises(UserError, match=r"params\.json does not tell n_heads"):
        load(tmp_path, {"dim": 8, "n_layers": 2}, "params.json")
    with pytest.raises(UserError, match=r"params\.json holds no settings: it must be a JSON"):
        load(tmp_path, [1, 2], "params.json")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (tmp_path / "params.json").write_text(pointer)
    with pytest.raises(UserError, match=r"params\.json is a Git LFS pointer, .*git lfs pull"):
        load_model_config(tmp_path)
    with pytest.raises(UserError, match="does not tell multiple_of"):
        params = {name: META_7B[name] for name in META_7B if name != "multiple_of"}
        load(tmp_path, params, "params.json")


def test_a_config_is_plain_data(tmp_path):
    assert json.dumps(asdict(load(tmp_path, LLAMA_2)))


def test_settings_that_a_family_does_not_know_are_passed_over(tmp_path):
    """As transformers does: Qwen 2 always has its biases, Mistral never, whatever is written."""
    for family, biased in (("qwen2", True), ("mistral", False)):
        for written in (True, False):
            config = {**LLAMA_2, "model_type": family, "attention_bias": written, "mlp_bias": True}
            loaded = load(tmp_path, config)
            assert (loaded.qkv_bias, loaded.output_bias) == (biased, False)


def test_a_byte_order_mark_and_an_end_of_sequence_that_is_none(tmp_path):
    text = "\ufeff" + json.dumps({**LLAMA_2, "eos_token_id": [2, -1]})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert load_model_config(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize(
    "params",
    [
        META_7B,
        {**META_7B, "dim": 6656, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-5},
        {**META_70B, "n_kv_heads": None, "ffn_dim_multiplier": None, "multiple_of": 256},
    ],
)
def test_llama_1_is_told_from_llama_2(tmp_path, params):
    config = load(tmp_path, params, "params.json")
    assert (config.family, config.max_positions) == ("LLaMA 1", 2048)
    assert config.feed_forward_size in (11008, 17920, 22016)
    assert load(tmp_path, {**params, "max_seq_len": 4096}, "params.json").max_positions == 4096
    llama_2 = load(tmp_path, {**META_7B, "norm_eps": 1e-5}, "params.json")
    assert (llama_2.family, llama_2.max_positions) == ("llama", 4096)
