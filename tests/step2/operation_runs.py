"""Runs one of the engine's operations, and computes what a GPU's attention kernel would."""

import torch
from engine.operations import Operations


def run(operations: Operations, name: str, *arguments: object) -> tuple[torch.Tensor, ...]:
    """What an operation returns, and copies of its tensors as it left them."""
    arguments = [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]
    returned = getattr(operations, name)(*arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return *returned, *(x for x in arguments if isinstance(x, torch.Tensor))


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch.nn.attention.varlen.varlen_attn as it is documented, sequence by sequence.

    Like FlashAttention's kernel it gives the log-sum-exps as [heads, queries], infinity for
    queries that see no key, and refuses what the kernel refuses. What it does not write is NaN.
    """
    assert return_aux.lse and window_size in ((-1, -1), (-1, 0))
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    for numbers in (cu_seq_q, cu_seq_k, seqused_k):
        assert numbers.dtype == torch.int32 and numbers.is_contiguous()
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1
    assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query)
    (_, heads, _), kv_heads = query.shape, key.shape[1]
    assert heads == kv_heads or (enable_gqa and heads % kv_heads == 0)
    swaps_axes = max_q == 1 and heads > kv_heads and window_size == (-1, -1)
    assert not swaps_axes, "the kernel would return its sums in another order"
    outputs = torch.full_like(query, torch.nan)
    sums = torch.full((heads, len(query)), torch.nan)
    for sequence, used in enumerate(seqused_k.tolist()):
        first, stop = cu_seq_q[sequence : sequence + 2].tolist()
        assert stop - first <= max_q and used <= max_k
        start = int(cu_seq_k[sequence])
        keys, values = (
            x[start : start + used].double().repeat_interleave(heads // kv_heads, dim=1)
            for x in (key, value)
        )
        scores = torch.einsum("qhd,khd->hqk", query[first:stop].double(), keys) * scale
        if window_size == (-1, 0):  # the last query sees the last key
            unseen = torch.ones(scores.shape[1:], dtype=torch.bool).triu(used - (stop - first) + 1)
            scores.masked_fill_(unseen, -torch.inf)
        weights = scores.softmax(dim=-1) if used else torch.zeros_like(scores)
        outputs[first:stop] = torch.einsum("hqk,khd->qhd", weights, values).to(query.dtype)
        sums[:, first:stop] = scores.logsumexp(dim=-1) if used else torch.inf
    return outputs, sums
