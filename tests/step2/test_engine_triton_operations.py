"""The Triton kernels against the same in plain PyTorch, and compiled as for a GPU."""

import pytest
import torch
from engine.operations import Operations
from step2.operation_runs import run, triton_runs

triton = pytest.importorskip("triton")

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
TRITON_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
SMALLEST_SHARED_MEMORY = 99 * 1024  # bytes to a program, on GPUs of compute capability 8.6
SLOTS, OWN_TOKENS, KV_HEADS = 6, 140, 2
PLACES = {  # blocks of keys end at 64 and 128
    "prompts": ([1] * 5 + [2] + [3] * 4, [0, 1, 2, 3, 4, 0, 62, 63, 64, 65]),
    "decoding": ([0, 1, 2, 3, 4, 5], [139, 0, 63, 64, 127, 128]),
}


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.fixture
def draw(dtype):
    torch.manual_seed(0)
    return lambda *sizes: torch.randn(*sizes).to(dtype)


@pytest.fixture(scope="module")
def run_kernels():
    with triton_runs() as run:
        yield run


@pytest.fixture
def assert_same(run_kernels):
    def check(head_dim, name, *arguments, scale=1.0):
        """Both do the same, up to the last bits of a sum; returns what the kernel gave."""
        tolerance = TOLERANCE[arguments[0].dtype]
        plain = run(Operations(head_dim), name, *arguments)
        actual = run_kernels(head_dim, name, *arguments)
        torch.testing.assert_close(actual, plain, rtol=tolerance, atol=tolerance * scale)
        return actual

    return check


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("width", [48, 1100])
def test_norm_and_activation(rows, width, draw, assert_same):
    stream, delta, weight = draw(rows, width), draw(rows, width), draw(width)
    assert_same(32, "add_norm", stream, delta, weight, 1e-5)
    assert_same(32, "add_norm", stream * 1e-3, None, weight, 1e-5)
    assert_same(32, "swiglu", draw(rows, 2 * width) * 10, scale=10)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("head_dim", "group"), [(24, 1), (64, 3), (24, 8)])
def test_rotation(head_dim, group, places, draw, assert_same):
    slots, positions = map(torch.tensor, places)
    heads = draw(len(slots), KV_HEADS * (group + 2), head_dim)
    rotary = draw(len(slots), head_dim), draw(len(slots), head_dim)
    own = draw(2, SLOTS, KV_HEADS, OWN_TOKENS, head_dim)
    assert_same(head_dim, "place", heads, *rotary, slots, positions, *own, scale=2)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("head_dim", "group"), [(24, 1), (64, 3), (24, 8)])
def test_attention(head_dim, group, places, draw, dtype, assert_same, run_kernels):
    if dtype == torch.bfloat16 and not torch.cuda.is_available():
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 as if they were integers")
    slots, positions = map(torch.tensor, places)
    rows = len(slots) * group
    own = draw(2, SLOTS, KV_HEADS, OWN_TOKENS, head_dim)
    queries, prefix = draw(KV_HEADS, rows, head_dim), draw(KV_HEADS, rows, head_dim) * 3
    highest, totals = torch.randn(KV_HEADS, rows), 1 + 9 * torch.rand(KV_HEADS, rows)
    behind = prefix, highest, totals
    outputs, *_ = assert_same(head_dim, "attend_own", queries, *own, slots, positions, *behind)

    last = torch.full([SLOTS], -1).scatter_reduce(0, slots, positions, "amax")
    unseen = torch.arange(OWN_TOKENS) > last[:, None]
    spoiled = own.masked_fill(unseen[:, None, :, None], torch.nan)
    again, *_ = run_kernels(head_dim, "attend_own", queries, *spoiled, slots, positions, *behind)
    assert torch.equal(again, outputs)

    far_apart = queries * 40, *own, slots, positions, *behind
    assert_same(head_dim, "attend_own", *far_apart, scale=40)
    nothing = torch.zeros_like(totals)
    no_prefix = torch.zeros_like(prefix), nothing - torch.inf, nothing
    assert_same(head_dim, "attend_own", queries, *own, slots, positions, *no_prefix)


@pytest.mark.parametrize(("columns", "used"), [(32, 1), (64, 64), (96, 70)])
@pytest.mark.parametrize("scale", [1, 40])
def test_weights_of_the_prefix(columns, used, scale, draw, assert_same):
    """Far apart, the scores neither overflow nor leave anything in the columns beyond."""
    scores = draw(KV_HEADS, 9, columns) * scale
    *_, weights = assert_same(64, "weigh", scores, used, scale=scale)
    assert weights[..., used:].count_nonzero() == 0
    assert weights.amax(dim=-1).eq(1).all()


@pytest.mark.parametrize("scale", [6, 0.1, 0])
def test_drawn_tokens(scale, draw, run_kernels):
    logits = draw(8, 5000) * scale
    logits[::3, 1] = -torch.inf
    keys, positions = torch.arange(8) * 1234567 - 3, torch.arange(8)
    for top_p in (0.3, 0.95, 1.0):
        arguments = "draw", logits, keys, positions, 0.7, top_p
        expected, *_ = run(Operations(64), *arguments)
        drawn, *_ = run_kernels(64, *arguments)
        assert drawn.tolist() == expected.tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_no_numbers_still_give_a_token(value, draw, run_kernels):
    logits = draw(3, 5000)
    logits[0], logits[1, 3:], logits[2, :1] = value, value, value
    drawn, *_ = run_kernels(64, "draw", logits, torch.arange(3), torch.arange(3), 0.7, 0.9)
    assert all(0 <= token < 5000 for token in drawn.tolist())


@pytest.mark.parametrize(
    ("dtype", "head_dim", "group"),
    [(torch.float32, 256, 8), (torch.float16, 24, 3), (torch.bfloat16, 128, 1)],
    indirect=["dtype"],
    ids=["float32", "float16", "bfloat16"],
)
def test_kernels_compile_for_a_gpu(head_dim, group, draw, dtype, monkeypatch, tmp_path):
    """What the interpreter lets pass, the compiler need not: no GPU is needed to ask it."""
    from engine.triton_operations import TritonOperations

    launches = []
    monkeypatch.setattr(
        triton.JITFunction, "run", lambda kernel, *x, **named: launches.append((kernel, x, named))
    )
    operations = TritonOperations(head_dim)
    slots, stream = torch.arange(SLOTS), draw(4, 100)
    own = draw(2, SLOTS, KV_HEADS, OWN_TOKENS, head_dim)
    heads, rotary = draw(SLOTS, KV_HEADS * (group + 2), head_dim), draw(SLOTS, head_dim)
    operations.add_norm(stream, stream, draw(100), 1e-5)
    operations.add_norm(stream, None, draw(100), 1e-5)
    operations.swiglu(stream)
    queries = operations.place(heads, rotary, rotary, slots, slots, *own)
    sums = operations.weigh(draw(KV_HEADS, SLOTS * group, 96), 70)
    operations.draw(stream, slots, slots, 0.7, 0.95)
    operations.attend_own(queries, *own, slots, slots, queries, *sums)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = [compile_launch(*launch) for launch in launches]
    assert len(compiled) == 7
    for kernel in compiled:
        assert kernel.metadata.shared <= SMALLEST_SHARED_MEMORY
    assert (dtype == torch.float32) == ("mma.sync" not in compiled[-1].asm["ptx"])


def compile_launch(kernel, positional, named):
    """A kernel's machine code for compute capability 8.0 and the arguments of one launch."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: named[name] for name in ("num_warps", "num_stages") if name in named}
    arguments = dict(zip(kernel.arg_names, positional, strict=False))
    fixed = {name: x for name, x in named.items() if name in kernel.arg_names}
    fixed |= {name: None for name, x in arguments.items() if x is None}
    types = {name: triton_type(x) for name, x in arguments.items()}
    types |= dict.fromkeys(fixed, "constexpr")
    places = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    aligned = {places[name]: [["tt.divisibility", 16]] for name in types if types[name][0] == "*"}
    source = ASTSource(
        fn=kernel,
        signature={name: types[name] for name in kernel.arg_names},
        constexprs={places[name]: x for name, x in fixed.items()},
        attrs=aligned,
    )
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)


def triton_type(argument):
    if isinstance(argument, torch.Tensor):
        return TRITON_TYPES[argument.dtype]
    return "i32" if isinstance(argument, int) else "fp32"
