"""Attention over a shared prefix and an own part: matrix products, joined exactly.

All queries see the same prefix, so the scores against it are one product whose keys are read once
for the whole batch. What a query's own keys come to, an output and the log-sum-exp of its scores,
enters the prefix's softmax as one more column (Hydragen, arXiv 2402.05099, merges two parts by
their log-sum-exps; here a row needs no second pass to find that of the prefix).
"""

import torch

OWN_COLUMN_ALIGNMENT = 32  # matrix products dislike odd sizes


def fold_groups(heads: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[tokens, heads, head_dim] -> [kv_heads, tokens * group, head_dim].

    Query heads that share a key/value head become rows of one matrix.
    """
    tokens, _, head_dim = heads.shape
    grouped = heads.view(tokens, kv_heads, -1, head_dim)
    return grouped.transpose(0, 1).reshape(kv_heads, -1, head_dim)


def unfold_groups(folded: torch.Tensor, tokens: int) -> torch.Tensor:
    """Undoes `fold_groups`."""
    kv_heads, _, head_dim = folded.shape
    return folded.view(kv_heads, tokens, -1, head_dim).transpose(0, 1).reshape(tokens, -1, head_dim)


def padded_prefix(tokens: int) -> int:
    """Columns of a prefix with the own part's, filled up to a size that products like."""
    return -(-(tokens + 1) // OWN_COLUMN_ALIGNMENT) * OWN_COLUMN_ALIGNMENT


def weigh(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of float32 scores [..., keys] in their place, and their log-sum-exps [...]."""
    highest = scores.amax(dim=-1)
    weights = torch.softmax(scores, dim=-1, out=scores)
    # The highest weight is exp(highest - log-sum-exp): much cheaper than another pass of exp.
    return weights, highest - weights.amax(dim=-1).log()


def join_prefix(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_tokens: int,
    own_outputs: torch.Tensor,
    own_sums: torch.Tensor,
    scores: torch.Tensor,
) -> torch.Tensor:
    """Attention over the prefix and an own part whose attention is known.

    queries: [kv_heads, rows, head_dim], scaled; keys, values: [kv_heads, columns, head_dim], zero
    from column `prefix_tokens` on; own_outputs: like queries; own_sums: float32 [kv_heads, rows];
    scores: room for [kv_heads, rows, columns].
    """
    torch.bmm(queries, keys.transpose(1, 2), out=scores)
    scores[..., prefix_tokens:] = float("-inf")
    column = own_sums.to(scores.dtype)
    scores[..., prefix_tokens] = column
    weights = torch.softmax(scores, dim=-1, out=scores)
    outputs = torch.bmm(weights, values)  # the own column's value is zero
    # Put right what rounding the log-sum-exp to the scores' type did to the own part's weight.
    rounded = weights[..., prefix_tokens].float()
    own = rounded * torch.exp(own_sums - column.float())
    total = own + (1 - rounded)
    joined = outputs.float().addcmul_(own_outputs.float(), own.unsqueeze(-1))
    return joined.div_(total.unsqueeze(-1)).to(queries.dtype)


def causal_mask(lengths: list[int], device: torch.device) -> torch.Tensor:
    """For sequences laid end to end: 0 where a token sees another, minus infinity elsewhere.

    Returns float32 [tokens, tokens].
    """
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    seen = (sequence[:, None] == sequence).tril()
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf")).to(device)
