"""Attention split into prefix and own part against dense attention in float64.

Every kind of operations, on the CPU a GPU's too: there a stand-in of the documented meaning takes
the place of PyTorch's kernel.
"""

import pytest
import torch
from engine.attention import CachedAttention, CacheShape, KeyValueCache, PrefixPiece
from engine.compiled_operations import compile_operations
from engine.decoder import choose_operations
from engine.flash_operations import FlashOperations
from engine.operations import Operations
from step2.operation_runs import varlen_attn

CPU = torch.device("cpu")
KINDS = {
    "plain": lambda group, dtype: (CPU, Operations(HEAD_DIM)),
    "compiled": lambda group, dtype: (CPU, compile_operations(HEAD_DIM, group, dtype)),
    "flash": lambda group, dtype: (CPU, FlashOperations(HEAD_DIM, varlen_attn)),
}
if torch.cuda.is_available():
    CUDA = torch.device("cuda")
    KINDS["gpu"] = lambda group, dtype: (CUDA, choose_operations(CUDA, dtype, HEAD_DIM, group))
    KINDS["plain on gpu"] = lambda group, dtype: (CUDA, Operations(HEAD_DIM))
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 3e-2}
KV_HEADS, HEAD_DIM, SLOTS, OWN_TOKENS, LAYERS = 2, 32, 20, 40, 2
LAYER = 1


class Texts:
    """Queries, keys and values of a prefix and of sequences behind it, and a cache for them."""

    def __init__(self, prefix_tokens, group, dtype, kind, scale=1.0):
        """`group`: query heads to a key/value head."""
        torch.manual_seed(prefix_tokens + group)
        self.prefix_tokens, self.group, self.dtype = prefix_tokens, group, dtype
        self.device, self.operations = KINDS[kind](group, dtype)
        self.scale, self.tolerance = scale, TOLERANCE[dtype] * scale  # rounded scores weigh more
        shape = CacheShape(LAYERS, KV_HEADS, HEAD_DIM, prefix_tokens, SLOTS, OWN_TOKENS)
        tokens_first = self.operations.tokens_first
        self.cache = KeyValueCache(shape, dtype, self.device, tokens_first=tokens_first)
        self.cache.own.fill_(99.0)  # what a slot held before is never seen
        self.prefix = self.draw(prefix_tokens)

    def draw(self, tokens):
        """Random queries [tokens, heads, D], keys and values [tokens, kv_heads, D]."""
        heads = (KV_HEADS * self.group, KV_HEADS, KV_HEADS)
        drawn = (torch.randn(tokens, n, HEAD_DIM) for n in heads)
        queries, keys, values = (x.to(self.device, self.dtype) for x in drawn)
        return queries * self.scale, keys, values

    def attend(self, attention, parts, wanted=None):
        """Through the cache, with a rotation that turns nothing."""
        heads = torch.cat(parts, dim=1)
        cosines = torch.ones(len(heads), HEAD_DIM, dtype=self.dtype, device=self.device)
        return attention(LAYER, heads, (cosines, torch.zeros_like(cosines)), wanted)

    def attend_slots(self, slots, positions, parts, lengths=None):
        """Tokens at positions of slots, behind the whole prefix."""
        places = (torch.tensor(x, device=self.device) for x in (slots, positions))
        return self.attend(CachedAttention(self.cache, self.operations, *places, lengths), parts)

    def dense(self, sequence):
        """Causal attention over the prefix and a sequence, for the sequence's queries alone."""
        queries, keys, values = (
            torch.cat(pair).double().cpu() for pair in zip(self.prefix, sequence, strict=True)
        )
        keys, values = (x.repeat_interleave(self.group, dim=1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * HEAD_DIM**-0.5
        scores += torch.full(scores.shape[1:], float("-inf")).triu(1)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values)
        return attended[self.prefix_tokens :]

    def fill_prefix(self, pieces):
        """Attends the prefix to itself, piece by piece: [prefix tokens, heads, D]."""
        outputs, start = [], 0
        for tokens in pieces:
            piece = slice(start, start + tokens)
            start += tokens
            attention = PrefixPiece(self.cache, self.operations, piece)
            outputs.append(self.attend(attention, [x[piece] for x in self.prefix]))
        return torch.cat(outputs)

    def assert_equal(self, outputs, expected):
        assert outputs.dtype == self.dtype
        error = (outputs.double().cpu() - expected).abs().max().item()
        assert error < self.tolerance, error  # also false where it isn't finite


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("prefix", [[], [1], [31], [20, 30], [7, 25, 1]])
def test_prefix_prompts_and_steps_attend_as_dense_attention(prefix, group, dtype, kind):
    """Prompts of several lengths, one in a step of its own, then tokens one by one."""
    texts = Texts(sum(prefix), group, dtype, kind)
    if prefix:
        outputs = texts.fill_prefix(prefix)
        nothing = tuple(x[:0] for x in texts.prefix)
        alone = Texts(0, group, dtype, kind)
        alone.prefix = nothing
        texts.assert_equal(outputs, alone.dense(texts.prefix))
    lengths = [5, 1, 16, 30, 17, *[3] * 12, 29]
    sequences = [texts.draw(length + 8) for length in lengths]
    fill(texts, sequences, lengths)
    for step in range(8):
        now = [length + step for length in lengths]
        rows = [
            torch.stack([part[position] for part, position in zip(column, now, strict=True)])
            for column in zip(*sequences, strict=True)
        ]
        outputs = decode(texts, now, rows)
        expected = [
            texts.dense([x[: position + 1] for x in sequence])[-1]
            for sequence, position in zip(sequences, now, strict=True)
        ]
        texts.assert_equal(outputs, torch.stack(expected))


def fill(texts, sequences, lengths):
    """Fills the prompts in two admissions and holds both against dense attention."""
    for first, stop in ((0, 2), (2, len(lengths))):
        prompts = [
            tuple(x[:length] for x in sequence)
            for sequence, length in zip(sequences[first:stop], lengths[first:stop], strict=True)
        ]
        flat = [torch.cat(parts) for parts in zip(*prompts, strict=True)]
        slots = [slot for slot in range(first, stop) for _ in range(lengths[slot])]
        positions = [position for slot in range(first, stop) for position in range(lengths[slot])]
        outputs = texts.attend_slots(slots, positions, flat, lengths[first:stop])
        texts.assert_equal(outputs, torch.cat([texts.dense(prompt) for prompt in prompts]))


def decode(texts, positions, rows):
    """A step of the first slots at these positions."""
    return texts.attend_slots(list(range(len(positions))), positions, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_slot_attends_as_before_and_what_lay_there_is_forgotten(kind):
    texts = Texts(31, 3, torch.float32, kind)
    texts.fill_prefix([31])
    long, short = texts.draw(36), texts.draw(21)
    fill(texts, [long, texts.draw(9), short], [35, 9, 20])
    texts.cache.move(2, 0, 20)
    rows = [torch.stack([x[20], x[20]]) for x in short]
    outputs = decode(texts, [20, 9], rows)
    texts.assert_equal(outputs[:1], texts.dense(short)[-1:])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_far_apart_neither_overflow_nor_vanish(kind, dtype):
    """Where one part outweighs the other wholly, the result is that part's."""
    texts = Texts(40, 2, dtype, kind, scale=40.0)
    texts.fill_prefix([40])
    sequences = [texts.draw(9), texts.draw(3)]
    fill(texts, [*sequences, texts.draw(4)], [8, 2, 4])
    rows = [torch.stack([a[8], b[2]]) for a, b in zip(*sequences, strict=True)]
    outputs = decode(texts, [8, 2], rows)
    expected = [texts.dense(sequence)[-1] for sequence in sequences]
    texts.assert_equal(outputs[:2], torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_whose_outputs_nobody_wants_are_stored_all_the_same(kind, dtype):
    """As in the last layer, which computes the end of each prompt only."""
    texts = Texts(50, 3, dtype, kind)
    first = PrefixPiece(texts.cache, texts.operations, slice(0, 20))
    texts.attend(first, [x[:20] for x in texts.prefix], torch.tensor([19], device=texts.device))
    second = PrefixPiece(texts.cache, texts.operations, slice(20, 50))
    texts.attend(second, [x[20:] for x in texts.prefix])
    lengths = [6, 1, 17]
    sequences = [texts.draw(length + 1) for length in lengths]
    flat = [torch.cat([x[:-1] for x in parts]) for parts in zip(*sequences, strict=True)]
    slots = [slot for slot, length in enumerate(lengths) for _ in range(length)]
    positions = [position for length in lengths for position in range(length)]
    places = (torch.tensor(x, device=texts.device) for x in (slots, positions))
    attention = CachedAttention(texts.cache, texts.operations, *places, lengths)
    ends = torch.tensor([5, 6, 23], device=texts.device)
    outputs = texts.attend(attention, flat, ends)
    expected = [texts.dense([x[:-1] for x in sequence])[-1] for sequence in sequences]
    texts.assert_equal(outputs, torch.stack(expected))
    rows = [torch.stack([x[-1] for x in parts]) for parts in zip(*sequences, strict=True)]
    expected = [texts.dense(sequence)[-1] for sequence in sequences]
    texts.assert_equal(decode(texts, lengths, rows), torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_slots_out_of_order_each_see_their_own(kind, dtype):
    texts = Texts(40, 3, dtype, kind)
    texts.fill_prefix([40])
    lengths = [9, 1, 30, 4]
    sequences = [texts.draw(length + 1) for length in lengths]
    fill(texts, sequences, lengths)
    order = [2, 0, 3, 1]
    rows = [
        torch.stack([part[lengths[slot]] for slot, part in zip(order, parts, strict=True)])
        for parts in zip(*(sequences[slot] for slot in order), strict=True)
    ]
    outputs = texts.attend_slots(order, [lengths[slot] for slot in order], rows)
    expected = [texts.dense(sequences[slot])[-1] for slot in order]
    texts.assert_equal(outputs, torch.stack(expected))


@pytest.mark.parametrize("kind", ["flash", "plain"])
def test_in_16_bits_scores_of_the_prefix_are_not_rounded(kind):
    """Pins peaks that were off by a tenth of the output's own rounding error times ten."""
    texts = Texts(600, 4, torch.bfloat16, kind, scale=4.0)
    texts.fill_prefix([300, 300])
    sequences = [texts.draw(3) for _ in range(4)]
    fill(texts, sequences, [2] * 4)
    rows = [torch.stack([part[2] for part in parts]) for parts in zip(*sequences, strict=True)]
    outputs = decode(texts, [2] * 4, rows).double()
    expected = torch.stack([texts.dense(sequence)[-1] for sequence in sequences])
    error = (outputs - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 3.5e-3, error  # 2 to 3e-3 by rounding weights and outputs


def test_the_kernels_sums_are_in_the_order_that_is_expected():
    """PyTorch's documents say [queries, heads], its code gives [heads, queries]."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.nn.attention.varlen import AuxRequest
    from torch.nn.attention.varlen import varlen_attn as real

    with FakeTensorMode():
        queries = torch.empty(7, 4, 32, dtype=torch.bfloat16)
        starts = torch.empty(3, dtype=torch.int32)
        _, sums = real(queries, queries, queries, starts, starts, 4, 4, return_aux=AuxRequest(True))
    assert sums.shape == (4, 7)
