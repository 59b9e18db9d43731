"""Logits against transformers' own models, in float32, through the engine's public face.

Every logit that the engine draws from is compared: prefix and own part apart, slots refilled,
heads padded and copied over ranks that they don't divide by.
"""

import pytest
import torch
import transformers
from engine.flash_operations import FlashOperations
from engine.model import rotary_frequencies
from engine.model_config import load_model_config
from engine.tokenizer import load_tokenizer
from step2.engine_runs import launch, run_case
from step2.operation_runs import varlen_attn
from step2.tiny_models import FAMILIES, make_model, training_text, write_meta_folder

TOLERANCE = 2e-5  # absolute, on logits of order 1-10; most differ by less than 1e-5
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PREFIX = training_text()[-300:].partition("\n")[2].rpartition("\nBär")[0] + "\n\nUser:"
SAYINGS = [
    "Hi.",
    "What is 12 times 345?",
    "Explain why the camel 🐪 has a hump, in detail, please.",
]
REQUESTS = [
    (f"request {number}", f" {SAYINGS[number % 3] * (1 + number % 2)}\n\nWatson:")
    for number in range(5)
]
CASE = {
    "prefix_text": PREFIX,
    "requests": REQUESTS,
    "sampling": {"max_new_tokens": 6, "temperature": 0.9},
    "slots": 3,  # fewer than the requests, so that slots are refilled
    "max_own_tokens": 128,
    "dtype": "float32",
}


def reference_logits(folder, result, prefix_text=PREFIX, requests=REQUESTS, dtype=torch.float32):
    """transformers' logits for the tokens that the engine drew: id -> [draws, vocabulary]."""
    tokenizer = load_tokenizer(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    prefix, anchor = tokenizer.encode_prefix(prefix_text), prefix_text.rpartition("\n")[2]
    logits = {}
    for name, text in requests:
        drawn = list(result["completions"][name][3])
        ids = prefix + tokenizer.encode_continuation(text, anchor) + drawn
        with torch.inference_mode():
            logits[name] = model(torch.tensor([ids])).logits[0, -len(drawn) - 1 : -1].float()
    return logits


def assert_equal_logits(result, expected, tolerance=TOLERANCE):
    """The largest difference is within the tolerance, on logits that are worth comparing."""
    assert result["logits"].keys() == expected.keys()
    for name, logits in expected.items():
        assert 1 < logits.abs().max() < 30
        difference = (result["logits"][name][: len(logits)] - logits).abs().max().item()
        assert difference < tolerance, (name, difference)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_one_process(tiny_model, family, device):
    folder = tiny_model(family)
    result = run_case(str(folder), **CASE, device=device)
    assert_equal_logits(result, reference_logits(folder, result))


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_logits_behind_the_projects_own_prompt(tmp_path, repository, family):
    """Some 2,500 tokens or more: rounding adds up, and the prefix is filled in several pieces."""
    folder = make_model(family, tmp_path, max_position_embeddings=8192)
    prompt = repository / "prompts" / "watson_self_align_prompt.txt"
    case = {**CASE, "prefix_text": prompt.read_text().rstrip(), "requests": REQUESTS[:3]}
    result = run_case(str(folder), **case)
    expected = reference_logits(folder, result, case["prefix_text"], case["requests"])
    assert_equal_logits(result, expected, tolerance=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_frequencies_are_transformers_own_to_the_last_bit(tiny_model, family):
    """Pins a last bit that came to 5e-5 in a frequency's angle at position 3,000."""
    folder = tiny_model(family)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = model.model.rotary_emb.inv_freq
    assert torch.equal(rotary_frequencies(load_model_config(folder)), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_rounds_no_worse_than_transformers_does(tiny_model, device):
    folder = tiny_model("llama3")
    result = run_case(str(folder), **{**CASE, "dtype": "bfloat16"}, device=device)
    expected = reference_logits(folder, result)
    rounded = reference_logits(folder, result, dtype=torch.bfloat16)
    ours, theirs = (
        torch.cat([some[name][: len(expected[name])] - expected[name] for name in expected])
        for some in (result["logits"], rounded)
    )
    assert ours.square().mean() < 1.5 * theirs.square().mean()


@pytest.mark.parametrize("family", ["llama2", "llama3", "qwen2"])
def test_logits_by_a_gpus_attention(tiny_model, family, monkeypatch):
    """The whole engine over FlashAttention's interface, with a stand-in that computes the same.

    Prefix in pieces, prompts of several lengths, refilled and moved slots, and the check at the
    start, which holds it against plain PyTorch.
    """
    from engine import decoder

    def flash(device, dtype, head_dim, queries_per_kv_head):
        return FlashOperations(head_dim, varlen_attn)

    monkeypatch.setattr(decoder, "choose_operations", flash)
    monkeypatch.setattr(decoder, "prefill_tokens", lambda device: 40)
    folder = tiny_model(family)
    result = run_case(str(folder), **CASE, device="cpu", start_check=True)
    assert_equal_logits(result, reference_logits(folder, result))
    assert result["start_check"]["replaced"] == []
    assert 0 < result["start_check"]["attention_error"] < 4e-6


@pytest.mark.parametrize("prefix_text", ["", PREFIX])
def test_logits_where_prefix_or_own_part_is_empty(tiny_model, prefix_text):
    """With no own part, the first token follows the prefix itself."""
    folder = tiny_model("llama3")
    requests = [("a", ""), ("b", " text"), ("c", "")]
    case = {**CASE, "prefix_text": prefix_text, "requests": requests}
    result = run_case(str(folder), **case)
    assert_equal_logits(result, reference_logits(folder, result, prefix_text, requests))


def test_logits_do_not_depend_on_whether_a_prefix_is_filled_in_pieces(tiny_model, monkeypatch):
    from engine import decoder

    folder = tiny_model("qwen3")
    monkeypatch.setattr(decoder, "prefill_tokens", lambda device: 17)
    result = run_case(str(folder), **CASE)
    assert_equal_logits(result, reference_logits(folder, result))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "degrees"), [(6, (2, 3)), (5, (5,))])
def test_logits_of_tensor_parallel_ranks(tiny_model, tmp_path, processes, degrees):
    """Families times degrees in one set of processes over gloo; every rank sees equal logits."""
    families = [family for family in FAMILIES for _ in degrees]
    cases = [
        {**CASE, "model_dir": str(tiny_model(family)), "tensor_parallel": degree, "device": "cpu"}
        for family in FAMILIES
        for degree in degrees
    ]
    results = launch(processes, cases, tmp_path)
    for family, case, ranks in zip(families, cases, zip(*results, strict=True), strict=True):
        degree = case["tensor_parallel"]
        expected = reference_logits(tiny_model(family), ranks[0])
        for rank, result in enumerate(ranks):
            assert result["group_index"] == rank // degree
            assert result["leads_group"] == (rank % degree == 0)
            assert_equal_logits(result, expected)
            leader = ranks[rank - rank % degree]
            assert list(result["completions"].items()) == list(leader["completions"].items())
            for name in expected:
                assert torch.equal(result["logits"][name], leader["logits"][name])


def test_logits_of_metas_folders(tiny_model, tmp_path):
    """One part and two, embeddings cut by columns (LLaMA 2) and by rows (Llama 3)."""
    folder = tiny_model("llama2")
    expected = None
    for parts, axis in ((1, 1), (2, 1), (2, 0)):
        meta = write_meta_folder(folder, tmp_path / f"{parts}{axis}", parts, axis)
        result = run_case(str(meta), **CASE)
        expected = expected or reference_logits(folder, result)
        assert_equal_logits(result, expected)


@pytest.mark.slow
def test_metas_folders_load_at_any_degree(tmp_path):
    """Grouped heads in two parts on 3 ranks: a rank's heads lie across both files."""
    changes = {"tie_word_embeddings": False, "rope_parameters": None, "vocab_size": 2504}
    folder = make_model("llama3", tmp_path / "hf", **changes)
    cases = [
        {
            **CASE,
            "model_dir": str(write_meta_folder(folder, tmp_path / f"meta{parts}", parts)),
            "tensor_parallel": degree,
            "device": "cpu",
        }
        for parts in (1, 2)
        for degree in (1, 3)
    ]
    results = launch(3, cases, tmp_path)
    expected = reference_logits(folder, results[0][0])
    for result in (result for rank in results for result in rank):
        assert_equal_logits(result, expected)
