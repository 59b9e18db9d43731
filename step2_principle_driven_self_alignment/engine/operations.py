"""What a step does between its matrix products, in plain PyTorch.

This is the reference, and the way out where nothing faster runs: `compiled_operations` does the
same in C loops, `flash_operations` the attention with PyTorch's own kernels on a GPU. Shapes: N
tokens, K key/value heads of G query heads each, D numbers in a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from engine.sampler import sample

# In `own_attention`, which copies the keys that each of them sees; a GPU waits for its launches.
TOKENS_AT_A_TIME = {"cpu": 4, "cuda": 16}
PREFIX_ALIGNMENT = 32  # matrix products dislike odd sizes


def padded_prefix(tokens: int) -> int:
    """Places for the tokens of a prefix, filled up to a size that products like."""
    return -(-tokens // PREFIX_ALIGNMENT) * PREFIX_ALIGNMENT


@dataclass
class TokenBatch:
    """Where a batch's tokens stand, the same in every layer.

    slots, positions: int64 [N], each token's place among the slots; it sees the first
    `prefix_tokens` tokens of the prefix, and its slot's tokens up to itself. `lengths`: how many
    neighbouring tokens belong to each slot, from position 0 on; None if each is the only one.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    prefix_tokens: int
    lengths: Sequence[int] | None = None
    scores: torch.Tensor | None = field(default=None, repr=False)  # room that the layers share


class Operations:
    """Holds nothing but the factor of all scores, 1 / sqrt(D).

    `tokens_first`: how caches should lie in memory, [slots, tokens, K, D] or [slots, K, tokens, D];
    `fixed_launches`: whether a step's work can be captured in a CUDA graph.
    """

    tokens_first = False
    fixed_launches = False

    def __init__(self, head_dim: int) -> None:
        self.scale = head_dim**-0.5

    def add_norm(
        self, stream: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Adds delta to stream [N, width] in its place; returns its RMS norm (arXiv 1910.07467)."""
        if delta is not None:
            stream.add_(delta)
        return F.rms_norm(stream, weight.shape, weight, epsilon)

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[N, 2 * width] -> [N, width] (arXiv 2002.05202)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attention(
        self,
        batch: TokenBatch,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        prefix: torch.Tensor,
        own: torch.Tensor,
    ) -> torch.Tensor:
        """Rotates, stores and attends: over the prefix and each token's own part, up to itself.

        heads: [N, K * G + 2 * K, D], queries, keys and values; rotary: cosines and sines [N, D],
        the sines negative in their first half; prefix: keys and values [2, K, prefix tokens, D];
        own: [2, slots, K, own tokens, D]. Returns [N, K * G, D].
        """
        queries = self.rotary_cache_write(heads, *rotary, batch.slots, batch.positions, *own)
        behind = self._prefix_attention(batch, queries, prefix)
        return self.own_attention(queries, *own, batch.slots, batch.positions, *behind)

    def cache_write(
        self,
        batch: TokenBatch,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        own: torch.Tensor,
    ) -> None:
        """Only rotates and stores the keys and values of `attention`'s tokens."""
        self.rotary_cache_write(heads, *rotary, batch.slots, batch.positions, *own)

    def rotary_cache_write(
        self,
        heads: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
    ) -> torch.Tensor:
        """Rotates queries and keys (arXiv 2104.09864), stores keys and values, returns queries.

        Arguments as in `attention`. Queries that share a key/value head are rows of one matrix:
        returns [K, N * G, D].
        """
        queries, keys, values = rotary_embedding(heads, cosines, sines, own_keys.shape[1])
        own_keys[slots, :, positions] = keys
        own_values[slots, :, positions] = values
        kv_heads, tokens = own_keys.shape[1], len(heads)
        by_kv_head = queries.view(tokens, kv_heads, -1, heads.shape[-1]).transpose(0, 1)
        return by_kv_head.reshape(kv_heads, -1, heads.shape[-1])

    def _prefix_attention(
        self, batch: TokenBatch, queries: torch.Tensor, prefix: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prefix's values times their weights, the highest scores and the weights' sums.

        All queries [K, N * G, D] meet the same keys, in one matrix product for each head.
        """
        if batch.prefix_tokens == 0:
            nothing = queries.new_zeros(queries.shape[:2], dtype=torch.float32)
            return torch.zeros_like(queries), nothing - torch.inf, nothing
        keys, values = prefix[:, :, : padded_prefix(batch.prefix_tokens)]
        scores = self._prefix_scores(batch, queries, keys)
        highest, totals = self.unnormalised_softmax(scores, batch.prefix_tokens)
        return torch.bmm(scores.to(values.dtype), values), highest, totals

    def _prefix_scores(
        self, batch: TokenBatch, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """Products [K, rows, keys] in float32: in 16 bits they would be rounded, or overflow."""
        if queries.is_cuda and queries.dtype != torch.float32:
            return torch.bmm(queries, keys.transpose(1, 2), out_dtype=torch.float32)
        return torch.bmm(queries.float(), keys.transpose(1, 2).float())

    def unnormalised_softmax(
        self, scores: torch.Tensor, used: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns scores [K, rows, columns] into weights in their place: a softmax not yet divided.

        A weight is exp(scale * (score - the row's highest)), and 0 from column `used` on. Returns
        scale * highest and the sums of the weights, both float32 [K, rows].
        """
        scaled = scores[..., :used].float() * self.scale
        highest = scaled.amax(dim=-1)
        weights = scaled.sub_(highest.unsqueeze(-1)).exp_()
        scores[..., :used] = weights
        scores[..., used:] = 0
        return highest, weights.sum(dim=-1)

    def own_attention(
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
        """Attention over each token's own part, up to itself, joined with that over the prefix.

        queries: [K, N * G, D]; prefix: like queries, the prefix's values times their weights;
        highest, totals: float32 [K, N * G], as `unnormalised_softmax` returns them. The two parts
        are joined in float32 (Hydragen, arXiv 2402.05099). Returns [N, K * G, D].
        """
        kv_heads, _, head_dim = queries.shape
        by_token = (kv_heads, len(slots), -1, head_dim)
        columns = (queries.view(by_token), prefix.view(by_token))
        sums = (highest.view(by_token[:3]), totals.view(by_token[:3]))
        outputs = []
        everyone = torch.arange(len(slots), device=slots.device)
        for some in everyone.split(TOKENS_AT_A_TIME[slots.device.type]):
            longest = int(positions[some].max()) + 1
            keys = own_keys[slots[some], :, :longest].float()  # [some, K, longest, D]
            values = own_values[slots[some], :, :longest].float()
            queries_, prefix_ = (x[:, some].float() for x in columns)  # [K, some, G, D]
            highest_, totals_ = (x[:, some].unsqueeze(-1) for x in sums)  # [K, some, G, 1]
            scores = torch.einsum("kngd,nktd->kngt", queries_ * self.scale, keys)
            unseen = torch.arange(longest, device=scores.device) > positions[some][:, None]
            scores.masked_fill_(unseen[None, :, None], float("-inf"))
            top = torch.maximum(scores.amax(dim=-1, keepdim=True), highest_)
            weights, kept = (scores - top).exp_(), (highest_ - top).exp_()
            joined = torch.einsum("kngt,nktd->kngd", weights, values) + kept * prefix_
            joined /= weights.sum(dim=-1, keepdim=True) + kept * totals_
            outputs.append(joined.to(queries.dtype).transpose(0, 1).flatten(1, 2))
        return torch.cat(outputs)

    def sample(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> torch.Tensor:
        """Samples one token a row from its nucleus, with noise that a row's key tells.

        logits: [rows, vocabulary]; keys: int64 [rows]; positions: int64 [rows], how many tokens
        were sampled for this key before. Returns int64 [rows].
        """
        return sample(logits, keys, positions, temperature, top_p)


def rotary_embedding(
    heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries [N, K * G, D] and keys [N, K, D], and the values [N, K, D] as they were."""
    rotated, values = heads.split((heads.shape[1] - kv_heads, kv_heads), dim=1)
    swapped = rotated.roll(heads.shape[-1] // 2, dims=-1)
    rotated = torch.addcmul(rotated * cosines[:, None], swapped, sines[:, None])
    queries, keys = rotated.split((rotated.shape[1] - kv_heads, kv_heads), dim=1)
    return queries, keys, values
