"""The compiled operations against the same in plain PyTorch, and where they can't be compiled."""

import os
import tempfile

import pytest
import torch
from engine.compiled_operations import CompiledOperations, compile_operations
from engine.decoder import choose_operations
from engine.operations import Operations
from step2.operation_runs import run

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2}
SLOTS, OWN_TOKENS, KV_HEADS = 5, 40, 2
PLACES = {
    "prompts": ([1] * 33 + [2] + [3] * 16, [*range(33), 0, *range(16)]),
    "decoding": ([0, 1, 2, 3, 4], [39, 0, 15, 16, 7]),
}


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.fixture
def draw(dtype):
    torch.manual_seed(0)
    return lambda *sizes: torch.randn(*sizes).to(dtype)


def both(head_dim, group, dtype):
    compiled = compile_operations(head_dim, group, dtype)
    assert compiled is not None, "no C compiler is here"
    return Operations(head_dim), compiled


def assert_same(implementations, name, *arguments, scale=1.0):
    """Both do the same, up to the last bits of a sum."""
    tolerance = TOLERANCE[arguments[0].dtype]
    plain, compiled = (run(operations, name, *arguments) for operations in implementations)
    for expected, actual in zip(plain, compiled, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("width", [48, 100])
def test_norm_and_activation(rows, width, draw, dtype):
    implementations = both(32, 1, dtype)
    stream, delta, weight = draw(rows, width), draw(rows, width), draw(width)
    assert_same(implementations, "add_norm", stream, delta, weight, 1e-5)
    assert_same(implementations, "add_norm", stream * 1e-3, None, weight, 1e-5)
    assert_same(implementations, "swiglu", draw(rows, 2 * width) * 10)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("head_dim", "group"), [(16, 1), (64, 3), (128, 8)])
def test_rotation_and_attention(head_dim, group, places, draw, dtype):
    implementations = both(head_dim, group, dtype)
    slots, positions = map(torch.tensor, places)
    tokens, rows = len(slots), len(slots) * group
    heads = draw(tokens, KV_HEADS * (group + 2), head_dim)
    rotary = draw(tokens, head_dim), draw(tokens, head_dim)
    own = draw(2, SLOTS, KV_HEADS, OWN_TOKENS, head_dim)
    assert_same(implementations, "rotary_cache_write", heads, *rotary, slots, positions, *own)
    queries, prefix = draw(KV_HEADS, rows, head_dim), draw(KV_HEADS, rows, head_dim) * 3
    highest, totals = torch.randn(KV_HEADS, rows), 1 + 9 * torch.rand(KV_HEADS, rows)
    inputs = (*own, slots, positions)
    assert_same(implementations, "own_attention", queries, *inputs, prefix, highest, totals)
    far_apart = (queries * 40, *inputs, prefix, highest, totals)
    assert_same(implementations, "own_attention", *far_apart, scale=40)
    nothing = torch.zeros_like(totals)
    no_prefix = torch.zeros_like(prefix), nothing - torch.inf, nothing
    assert_same(implementations, "own_attention", queries, *inputs, *no_prefix)


@pytest.mark.parametrize(("columns", "used"), [(32, 1), (64, 64), (96, 70)])
@pytest.mark.parametrize("scale", [1, 400])
def test_weights_of_the_prefix(columns, used, scale, draw, dtype):
    """Far apart, the scores neither overflow nor leave anything in the columns beyond."""
    implementations = both(64, 3, dtype)
    scores = draw(KV_HEADS, 9, columns) * scale
    assert_same(implementations, "unnormalised_softmax", scores, used, scale=scale)
    for operations in implementations:
        *_, weights = run(operations, "unnormalised_softmax", scores, used)
        assert weights[..., used:].count_nonzero() == 0
        assert weights.amax(dim=-1).eq(1).all()


def test_without_a_compiler_or_a_size_it_knows_the_plain_operations_are_taken(
    monkeypatch, tmp_path, caplog
):
    assert type(choose_operations(CPU, torch.float32, 32, 1)) is CompiledOperations
    assert type(choose_operations(CPU, torch.float32, 24, 1)) is Operations
    assert type(choose_operations(CPU, torch.float16, 32, 1)) is Operations
    compile_operations.cache_clear()
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such processor >&2\nexit 1\n")
    broken.chmod(0o755)
    for compiler, reason in ((f"{broken} -O3", "no such processor"), ("/nowhere/cc", "/nowhere")):
        monkeypatch.setenv("CC", compiler)
        assert type(choose_operations(CPU, torch.float32, 32, 1)) is Operations
        assert "slower" in caplog.text and reason in caplog.text
        compile_operations.cache_clear()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert type(choose_operations(CPU, torch.float32, 32, 1)) is Operations
    assert "no C compiler" in caplog.text
    compile_operations.cache_clear()


def test_folders_that_killed_processes_left_behind_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new, other = (
        tmp_path / name for name in ("self_align_operations_1", "self_align_operations_2", "else")
    )
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "operations.so").touch()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    compile_operations.cache_clear()
    assert compile_operations(32, 1, torch.float32) is not None
    assert sorted(tmp_path.iterdir()) == [other, new]


@pytest.mark.parametrize("name", ["unnormalised_softmax", "own_attention"])
def test_what_is_no_number_is_not_swallowed(name, draw, dtype):
    """Pins damaged weights of queries or keys that gave wrong text instead of an error."""
    for operations in both(32, 2, dtype):
        if name == "unnormalised_softmax":
            scores = draw(KV_HEADS, 6, 64)
            scores[1, 3, 17] = torch.nan
            _, totals = operations.unnormalised_softmax(scores, 64)
            assert totals.isnan().nonzero().tolist() == [[1, 3]]
            continue
        own = draw(2, SLOTS, KV_HEADS, OWN_TOKENS, 32)
        own[0, 3, 1, 5] = torch.nan
        slots, positions = torch.tensor([2, 3, 3]), torch.tensor([9, 9, 4])
        behind = draw(KV_HEADS, 6, 32), torch.zeros(KV_HEADS, 6), torch.ones(KV_HEADS, 6)
        outputs = operations.own_attention(
            draw(KV_HEADS, 6, 32), *own, slots, positions, *behind
        )  # [tokens, heads, head_dim]
        assert outputs.isnan().any(dim=-1).nonzero().tolist() == [[1, 2], [1, 3]]
