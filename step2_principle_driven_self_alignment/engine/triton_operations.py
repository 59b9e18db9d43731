# ruff: noqa: ANN001, N803 - kernels, as Triton writes them: no types, constants in capitals
"""The operations as Triton kernels for CUDA, each in one pass over memory.

Blocks are powers of two: what lies beyond a row, a head or a group is masked. Sums are taken in
float32. Nothing waits for the device: launches depend on shapes alone, slots and positions are read
by the kernels, so that a step can be captured in a CUDA graph. Rows are counted in 64 bits, as
caches and scores may hold more than 2**31 numbers.
"""

import torch
import triton
import triton.language as tl

from engine.operations import Operations

SWIGLU_BLOCK = 1024  # columns to a program
LOGITS_BLOCK = 4096  # of the vocabulary, at a time
KEYS_BYTES = 16384  # of a block of keys; two such blocks and the next two fit into shared memory
SMALLEST_DOT = 16  # rows or columns, for tensor cores
NUMBERS_PER_WARP = 512

# As in sampler.py.
GAMMA: tl.constexpr = tl.constexpr(0x9E3779B97F4A7C15)
MIX_1: tl.constexpr = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_2: tl.constexpr = tl.constexpr(0x94D049BB133111EB)


class TritonOperations(Operations):
    """Tensors are contiguous, on the current CUDA device, float16, bfloat16 or float32."""

    def add_norm(
        self, stream: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        _check_contiguous(stream, delta, weight)
        rows, width = stream.shape
        outputs = torch.empty_like(stream)
        block = triton.next_power_of_2(width)
        _add_norm[(rows,)](
            stream, delta, weight, outputs, width, epsilon, BLOCK=block, num_warps=_warps(block)
        )
        return outputs

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        _check_contiguous(gate_up)
        rows, width = len(gate_up), gate_up.shape[1] // 2
        outputs = gate_up.new_empty(rows, width)
        grid = (rows, triton.cdiv(width, SWIGLU_BLOCK))
        _swiglu[grid](gate_up, outputs, width, BLOCK=SWIGLU_BLOCK, num_warps=_warps(SWIGLU_BLOCK))
        return outputs

    def place(
        self,
        heads: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
    ) -> torch.Tensor:
        arguments = heads, cosines, sines, slots, positions, own_keys, own_values
        _check_contiguous(*arguments)
        tokens, count, head_dim = heads.shape
        _, kv_heads, own_tokens, _ = own_keys.shape
        group, half = count // kv_heads - 2, head_dim // 2
        queries = heads.new_empty(kv_heads, tokens * group, head_dim)
        _place[(tokens, kv_heads)](
            *arguments,
            queries,
            own_tokens,
            GROUP=group,
            HALF=half,
            HEADS=triton.next_power_of_2(group + 2),
            COLUMNS=triton.next_power_of_2(half),
            num_warps=4,
        )
        return queries

    def weigh(self, scores: torch.Tensor, used: int) -> tuple[torch.Tensor, torch.Tensor]:
        _check_contiguous(scores)
        columns = scores.shape[-1]
        highest = scores.new_empty(scores.shape[:2], dtype=torch.float32)
        totals = torch.empty_like(highest)
        block = triton.next_power_of_2(columns)
        _weigh[(highest.numel(),)](
            scores,
            highest,
            totals,
            columns,
            used,
            self.scale,
            BLOCK=block,
            num_warps=_warps(block),
        )
        return highest, totals

    def attend_own(
        self,
        queries: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        prefix: torch.Tensor,
        highest: torch.Tensor,
        totals: torch.Tensor,
    ) -> torch.Tensor:
        arguments = queries, own_keys, own_values, slots, positions, prefix, highest, totals
        _check_contiguous(*arguments)
        kv_heads, rows, head_dim = queries.shape
        tokens, own_tokens = len(slots), own_keys.shape[2]
        group = rows // tokens
        outputs = queries.new_empty(tokens, kv_heads * group, head_dim)
        padded_dim = max(triton.next_power_of_2(head_dim), SMALLEST_DOT)
        keys = KEYS_BYTES // (padded_dim * queries.element_size())
        _attend_own[(tokens, kv_heads)](
            *arguments,
            outputs,
            own_tokens,
            self.scale,
            GROUP=group,
            HEAD_DIM=head_dim,
            ROWS=max(triton.next_power_of_2(group), SMALLEST_DOT),
            COLUMNS=padded_dim,
            KEYS=min(max(keys, SMALLEST_DOT), 64),
            num_warps=4,
            num_stages=2,
        )
        return outputs

    def draw(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> torch.Tensor:
        _check_contiguous(logits, keys, positions)
        rows, vocabulary = logits.shape
        tokens = torch.empty_like(keys)
        _draw[(rows,)](
            logits,
            keys,
            positions,
            tokens,
            vocabulary,
            temperature,
            top_p,
            BLOCK=LOGITS_BLOCK,
            num_warps=_warps(LOGITS_BLOCK),
        )
        return tokens


def _check_contiguous(*tensors: torch.Tensor | None) -> None:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)


def _warps(block: int) -> int:
    return min(max(block // NUMBERS_PER_WARP, 1), 16)


@triton.jit
def _add_norm(stream, delta, weight, outputs, width, epsilon, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = tl.program_id(0).to(tl.int64) * width + column
    x = tl.load(stream + place, mask=inside, other=0.0)
    if delta is not None:
        added = tl.load(delta + place, mask=inside, other=0.0)
        x = (x.to(tl.float32) + added.to(tl.float32)).to(x.dtype)
        tl.store(stream + place, x, mask=inside)
    x = x.to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x, axis=0) / width + epsilon)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + place, x * factor * gain, mask=inside)


@triton.jit
def _swiglu(gate_up, outputs, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + 2 * row * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (2 * row + 1) * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(outputs + row * width + column, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def _place(
    heads,
    cosines,
    sines,
    slots,
    positions,
    own_keys,
    own_values,
    queries,
    own_tokens,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program a token and key/value head: rows are its queries, its key and its value."""
    token = tl.program_id(0).to(tl.int64)
    tokens = tl.num_programs(0)
    kv_head = tl.program_id(1)
    kv_heads = tl.num_programs(1)
    row = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    within = column < HALF

    head = tl.where(row < GROUP, kv_head * GROUP + row, kv_heads * row + kv_head)
    source = heads + (token * kv_heads * (GROUP + 2) + head) * 2 * HALF + column
    shown = (row < GROUP + 2) & within
    first = tl.load(source, mask=shown, other=0.0)
    second = tl.load(source + HALF, mask=shown, other=0.0)

    angle = token * 2 * HALF + column
    cosine = tl.load(cosines + angle, mask=within, other=0.0).to(tl.float32)
    sine = tl.load(sines + angle, mask=within, other=0.0).to(tl.float32)
    rotated_first = first.to(tl.float32) * cosine + second.to(tl.float32) * sine
    cosine = tl.load(cosines + angle + HALF, mask=within, other=0.0).to(tl.float32)
    sine = tl.load(sines + angle + HALF, mask=within, other=0.0).to(tl.float32)
    rotated_second = second.to(tl.float32) * cosine + first.to(tl.float32) * sine

    query = queries + ((kv_head * tokens + token) * GROUP + row) * 2 * HALF + column
    tl.store(query, rotated_first, mask=(row < GROUP) & within)
    tl.store(query + HALF, rotated_second, mask=(row < GROUP) & within)
    slot = tl.load(slots + token)
    own = (slot * kv_heads + kv_head) * own_tokens + tl.load(positions + token)
    own = own * 2 * HALF + column + 0 * row
    tl.store(own_keys + own, rotated_first, mask=(row == GROUP) & within)
    tl.store(own_keys + own + HALF, rotated_second, mask=(row == GROUP) & within)
    tl.store(own_values + own, first, mask=(row == GROUP + 1) & within)
    tl.store(own_values + own + HALF, second, mask=(row == GROUP + 1) & within)


@triton.jit
def _weigh(scores, highest, totals, columns, used, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    score = scores + row * columns + column
    scaled = tl.load(score, mask=column < used, other=-float("inf")).to(tl.float32) * scale
    top = tl.max(scaled, axis=0)
    weight = tl.exp(scaled - top)
    tl.store(score, weight, mask=column < columns)
    tl.store(highest + row, top)
    tl.store(totals + row, tl.sum(weight, axis=0))


@triton.jit
def _attend_own(
    queries,
    own_keys,
    own_values,
    slots,
    positions,
    prefix,
    highest,
    totals,
    outputs,
    own_tokens,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program a token and key/value head: a softmax over blocks of keys (arXiv 1805.02867).

    It goes on from what the prefix came to. The first block holds the slot's first key, which all
    its tokens see: from there on `top` is finite, also where there is no prefix.
    """
    token = tl.program_id(0).to(tl.int64)
    tokens = tl.num_programs(0)
    kv_head = tl.program_id(1)
    kv_heads = tl.num_programs(1)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    key = tl.arange(0, KEYS)
    within = column < HEAD_DIM

    first_row = (kv_head * tokens + token) * GROUP
    inside = (row[:, None] < GROUP) & within
    place = (first_row + row[:, None]) * HEAD_DIM + column
    query = tl.load(queries + place, mask=inside, other=0.0)
    joined = tl.load(prefix + place, mask=inside, other=0.0).to(tl.float32)  # [ROWS, COLUMNS]
    top = tl.load(highest + first_row + row, mask=row < GROUP, other=0.0)
    total = tl.load(totals + first_row + row, mask=row < GROUP, other=0.0)

    own = (tl.load(slots + token) * kv_heads + kv_head) * own_tokens * HEAD_DIM
    length = tl.load(positions + token).to(tl.int32) + 1
    for start in range(0, length, KEYS):
        seen = start + key < length
        block = own + (start + key)[:, None] * HEAD_DIM + column
        loaded = seen[:, None] & within
        keys = tl.load(own_keys + block, mask=loaded, other=0.0)  # [KEYS, COLUMNS]
        values = tl.load(own_values + block, mask=loaded, other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale  # [ROWS, KEYS]
        scores = tl.where(seen[None, :], scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(weights, axis=1)
        joined = joined * kept[:, None]
        joined = tl.dot(weights.to(values.dtype), values, joined, input_precision="ieee")
        top = higher

    place = (token * kv_heads + kv_head) * GROUP + row[:, None]
    tl.store(outputs + place * HEAD_DIM + column, joined / total[:, None], mask=inside)


@triton.jit
def _mix(state):
    state = (state ^ (state >> 30)) * MIX_1
    state = (state ^ (state >> 27)) * MIX_2
    return state ^ (state >> 31)


@triton.jit
def _draw(
    logits,
    keys,
    positions,
    tokens,
    vocabulary,
    temperature,
    top_p,
    BLOCK: tl.constexpr,
):
    """One program a row: tries tokens in noisy order until one lies in the nucleus.

    One that lies outside rules out all that are as unlikely: `floor` rises, and the likeliest
    token is never outside.
    """
    row = tl.program_id(0).to(tl.int64)
    first = logits + row * vocabulary
    top = -3.0e38  # finite, so that no difference is NaN
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(first + token, mask=token < vocabulary, other=-float("inf"))
        scaled = x.to(tl.float32) / temperature
        higher = tl.maximum(top, tl.max(scaled, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(scaled - higher), axis=0)
        top = higher

    key = tl.load(keys + row).to(tl.uint64, bitcast=True)
    position = tl.load(positions + row).to(tl.uint64, bitcast=True)
    state = _mix(key + position * GAMMA)
    floor = -float("inf")
    drawn = 0
    outside = True
    while outside:
        best = -float("inf")
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(first + token, mask=token < vocabulary, other=-float("inf"))
            scaled = x.to(tl.float32) / temperature
            bits = _mix(state ^ (token.to(tl.uint64) * GAMMA)) >> 41
            uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2**-23
            noisy = tl.where(scaled > floor, scaled - tl.log(-tl.log(uniform)), -float("inf"))
            highest, place = tl.max(noisy, axis=0, return_indices=True)
            if highest > best:
                best = highest
                drawn = start + place
        floor = tl.load(first + drawn).to(tl.float32) / temperature
        before = 0.0
        for start in range(0, vocabulary, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(first + token, mask=token < vocabulary, other=-float("inf"))
            scaled = x.to(tl.float32) / temperature
            before += tl.sum(tl.where(scaled > floor, tl.exp(scaled - top), 0.0), axis=0)
        outside = before > top_p * total
    tl.store(tokens + row, drawn)
