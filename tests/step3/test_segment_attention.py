"""Rows without padding: the same gradients as padded batches, nothing seen across a border."""

import pytest
import torch
import torch.nn.functional as F
from engraved_model import add_adapter, load_base_model
from engraving_data import IGNORED, Example, packed_batch, padded_batch
from segment_attention import attention_implementation, segment_attention


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(3)
    found = []
    for length in (3, 40, 17, 2, 90):
        ids = torch.randint(5, 400, (length,), generator=generator).tolist()
        found.append(Example(ids, [IGNORED] * (length // 2) + ids[length // 2 :]))
    return found


def gradients(model, batch, attention):
    model.zero_grad()
    targets = batch.pop("targets")
    with attention_implementation(model, attention):
        logits = model(**batch, use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss.backward()
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_same_gradients_as_the_padded_run(random_model, examples):
    model = load_base_model(str(random_model), attention="segments")
    packed_loss, packed = gradients(model, packed_batch(examples), "segments")
    padded_loss, padded = gradients(model, padded_batch(examples), "sdpa")
    assert packed_loss.item() == pytest.approx(padded_loss.item(), rel=1e-6)
    assert ((packed - padded).norm() / padded.norm()).item() < 1e-6


def test_nothing_leaks_between_neighbours(random_model, examples):
    """sdpa without segments mixes neighbours without a word; here not one bit may change."""
    model = load_base_model(str(random_model), attention="segments")
    row = packed_batch(examples)
    del row["targets"], row["logits_to_keep"]
    changed = {**row, "input_ids": row["input_ids"].clone()}
    changed["input_ids"][:, 3:43] = 7  # the whole second example
    with torch.no_grad():
        before, after = model(**row).logits[0], model(**changed).logits[0]
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[43:], after[43:])
    assert not torch.equal(before[3:43], after[3:43])


def test_segment_by_itself_gives_the_same_logits(random_model, examples):
    model = load_base_model(str(random_model), attention="segments")
    row = packed_batch(examples)
    del row["targets"], row["logits_to_keep"]
    with torch.no_grad(), attention_implementation(model, "sdpa"):
        alone = model(input_ids=torch.tensor([examples[1].input_ids])).logits[0]
    with torch.no_grad():
        packed = model(**row, use_cache=True).logits[0, 3:43]
    assert torch.allclose(packed, alone, atol=1e-5)


def test_checkpointed_activations_give_the_same_gradients(random_model, examples):
    """Segment borders must reach the layers when their activations are computed a second time."""
    model = load_base_model(str(random_model), attention="segments").train()
    _, plain = gradients(model, packed_batch(examples), "segments")
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    _, checkpointed = gradients(model, packed_batch(examples), "segments")
    assert torch.equal(plain, checkpointed)


def test_calls_that_would_be_wrong_are_refused():
    query = torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="padded batches need 'sdpa'"):
        segment_attention(None, query, query, query, None)
    with pytest.raises(ValueError, match="don't fill a row"):
        segment_attention(None, query, query, query, None, segment_lengths=(3, 2))
    with pytest.raises(ValueError, match="sliding window of 2"):
        segment_attention(None, query, query, query, None, segment_lengths=(3, 3), sliding_window=2)


def test_adapters_are_fp32_on_a_bfloat16_base(random_model):
    model = load_base_model(str(random_model), dtype=torch.bfloat16, attention="segments")
    model = add_adapter(model, rank=2, alpha=4, dropout=0, bits=16, checkpointing=False)
    dtypes = {weight.requires_grad: weight.dtype for weight in model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    adapted = {
        name.rsplit(".lora_", 1)[0] for name, _ in model.named_parameters() if "lora" in name
    }
    assert len(adapted) == 2 * 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_varlen_kernel_agrees_with_the_cpu(dtype):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 60, 32, generator=generator).to(dtype)
    key, value = (torch.randn(1, 2, 60, 32, generator=generator).to(dtype) for _ in range(2))
    lengths = (10, 1, 49)
    borders = torch.tensor([0, 10, 11, 60], dtype=torch.int32)
    expected, _ = segment_attention(None, query, key, value, None, segment_lengths=lengths)
    actual, _ = segment_attention(
        None,
        *(tensor.cuda() for tensor in (query, key, value)),
        None,
        segment_lengths=lengths,
        segment_borders=borders.cuda(),
    )
    assert torch.allclose(actual.cpu().float(), expected.float(), atol=2e-2)
