"""Attention over rows without padding: examples lie end to end and never see each other.

Registered with transformers under the name `segments`. A row is `[1, tokens]`; `segment_lengths`
says how it is divided, and position ids restart at each border. CUDA runs torch's variable-length
flash attention, everything else runs causal scaled-dot-product attention segment by segment; both
are exact. Neither builds a mask, and neither depends on `use_cache`. Calls without
`segment_lengths` (generation, padded batches) must use another implementation:
`attention_implementation` switches for a while.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

NAME = "segments"


def segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segment_lengths: tuple[int, ...] | None = None,
    segment_borders: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    Shapes: query `[1, heads, tokens, head_dim]`, key and value `[1, kv_heads, tokens, head_dim]`,
    `segment_borders` int32 `[segments + 1]` with the cumulated lengths (needed on CUDA).
    Returns `[1, tokens, heads, head_dim]`.
    """
    if segment_lengths is None or attention_mask is not None:
        raise ValueError(
            "the attention 'segments' needs segment_lengths and no mask; padded batches need 'sdpa'"
        )
    if sum(segment_lengths) != query.shape[2] or query.shape[0] != 1:
        raise ValueError(
            f"segments of {sum(segment_lengths)} tokens don't fill a row of {tuple(query.shape)}"
        )
    if sliding_window is not None and max(segment_lengths) > sliding_window:
        raise ValueError(
            f"a segment of {max(segment_lengths)} tokens exceeds the model's sliding window of "
            f"{sliding_window}; lower --source_max_len or --target_max_len"
        )
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # sdpa would cast, varlen_attn doesn't
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        out = _varlen_attention(
            query, key, value, segment_lengths, segment_borders, scaling, dropout
        )
    else:
        out = _attention_per_segment(query, key, value, segment_lengths, scaling, dropout)
    return out, None


def _attention_per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    # The flash kernel for CPU has no grouped heads: repeat them, else sdpa falls back to the slow
    # path.
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1) if groups > 1 else key
    value = value.repeat_interleave(groups, dim=1) if groups > 1 else value
    parts = zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
    )
    outs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout)
        for q, k, v in parts  # each [1, heads, length, head_dim]
    ]
    return torch.cat([out.transpose(1, 2) for out in outs], dim=1)  # [1, tokens, heads, head_dim]


def _varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    borders: torch.Tensor,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise ValueError(f"attention dropout {dropout} is not supported on CUDA; set it to 0")
    longest = max(lengths)
    out = varlen_attn(
        *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),  # [tokens, heads, head_dim]
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # torch's way to say causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.unsqueeze(0)


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Uses another attention inside the block, for instance `sdpa` to generate."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(NAME, segment_attention)
