"""Attention over a shared prefix and an own part, merged exactly.

All queries of a batch see the same prefix, so its part is one product with nothing to mask; each
sequence's own keys are a second, small part. With the log-sum-exp of each part's scores, the two
are merged into exactly the attention over both (Hydragen, arXiv 2402.05099, section 3.1).
"""

import torch

flash_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_on_cuda = torch.ops.aten._scaled_dot_product_flash_attention
efficient_on_cuda = torch.ops.aten._scaled_dot_product_efficient_attention

Part = tuple[torch.Tensor, torch.Tensor]  # outputs [..., head_dim], log-sum-exps [...]


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> Part:
    """Scaled dot-product attention with its log-sum-exps.

    queries: [batch, heads, queries, head_dim]; keys, values: [batch, heads, keys, head_dim];
    mask: added to the scores, [batch, 1, 1, keys] in the queries' type.
    Returns outputs like the queries and float32 log-sum-exps [batch, heads, queries].
    """
    if queries.device.type == "cpu":
        outputs, sums = flash_on_cpu(queries, keys, values, is_causal=causal, attn_mask=mask)
        return outputs, sums.contiguous()
    if mask is not None:
        return attend_by_products(queries, keys, values, mask)
    if queries.dtype != torch.float32 and torch.cuda.get_device_capability()[0] >= 8:
        outputs, sums, *_ = flash_on_cuda(queries, keys, values, is_causal=causal)
    else:
        outputs, sums, *_ = efficient_on_cuda(queries, keys, values, None, True, is_causal=causal)
        sums = sums[..., : queries.shape[2]]  # this kernel rounds the number of queries up
    return outputs, sums.contiguous()


def attend_by_products(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> Part:
    """As `attend`, with plain matrix products: few queries each, shapes fixed for CUDA graphs."""
    scores = queries @ keys.transpose(-1, -2)  # [batch, heads, queries, keys]
    scores = scores.float() * queries.shape[-1] ** -0.5 + mask.float()
    sums = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - sums.unsqueeze(-1))
    return weights.to(values.dtype) @ values, sums


def merge(first: Part, second: Part) -> torch.Tensor:
    """Attention over the union of two sets of keys, from the attention over each.

    outputs: [..., head_dim], log-sum-exps: [...]; computed in float32, returned in the first
    outputs' type.
    """
    outputs, other_outputs = first[0], second[0]
    share = torch.sigmoid(second[1] - first[1]).unsqueeze(-1)  # of the second part's keys
    return torch.lerp(outputs.float(), other_outputs.float(), share).to(outputs.dtype)


def fold_groups(queries: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[tokens, heads, head_dim] -> [1, kv_heads, tokens * group, head_dim]: one long batch row."""
    tokens, heads, head_dim = queries.shape
    grouped = queries.view(tokens, kv_heads, heads // kv_heads, head_dim)
    return grouped.transpose(0, 1).reshape(1, kv_heads, -1, head_dim)


def unfold_groups(part: Part, tokens: int) -> Part:
    """Undoes `fold_groups`: outputs [tokens, heads, head_dim], log-sum-exps [tokens, heads]."""
    outputs, sums = part
    kv_heads, head_dim = outputs.shape[1], outputs.shape[3]
    grouped = outputs.reshape(kv_heads, tokens, -1, head_dim).transpose(0, 1)
    sums = sums.reshape(kv_heads, tokens, -1).transpose(0, 1)
    return grouped.reshape(tokens, -1, head_dim), sums.reshape(tokens, -1)
