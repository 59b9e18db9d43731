"""Attention in two parts: over the prefix that all tokens share, and over a slot's own tokens.

All queries meet the same prefix, so that their scores are one matrix product whose keys are read
once for the whole batch.
"""

import torch

from engine.kv_cache import KeyValueCache, padded_prefix
from engine.operations import Operations


class CachedAttention:
    """How a batch of tokens attends in every layer, and where its keys and values are stored."""

    def __init__(
        self,
        operations: Operations,
        prefix: torch.Tensor,
        prefix_tokens: int,
        own: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """The first `prefix_tokens` tokens of `prefix` are seen; `prefix`, `own`: as in the cache.

        slots, positions: int64 [tokens], where each token belongs in `own`; it sees the slot's
        tokens up to itself.
        """
        self.operations = operations
        self.prefix, self.prefix_tokens = (
            prefix[:, :, :, : padded_prefix(prefix_tokens)],
            prefix_tokens,
        )
        self.own, self.slots, self.positions = own, slots, positions
        self.scores: torch.Tensor | None = None  # one layer after the other uses the same room

    def __call__(
        self, layer: int, heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        """heads: [tokens, heads + 2 kv_heads, head_dim], queries, keys and values, not rotated.

        cosines, sines: [tokens, head_dim]. Returns [tokens, heads, head_dim].
        """
        own = self.own[layer]
        queries = self.operations.place(heads, cosines, sines, self.slots, self.positions, *own)
        prefix = self._attend_prefix(layer, queries)
        return self.operations.attend_own(queries, *own, self.slots, self.positions, *prefix)

    def _attend_prefix(
        self, layer: int, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prefix's values times their weights, the highest scores and the weights' sums."""
        keys, values = self.prefix[layer]
        if self.scores is None:
            self.scores = queries.new_empty(*queries.shape[:2], keys.shape[1])
        if self.prefix_tokens == 0:
            nothing = queries.new_zeros(queries.shape[:2], dtype=torch.float32)
            return torch.zeros_like(queries), nothing - torch.inf, nothing
        torch.bmm(queries, keys.transpose(1, 2), out=self.scores)
        highest, totals = self.operations.weigh(self.scores, self.prefix_tokens)
        return torch.bmm(self.scores, values), highest, totals


def attend_to_cache(
    cache: KeyValueCache, operations: Operations, slots: torch.Tensor, positions: torch.Tensor
) -> CachedAttention:
    """For tokens of sequences in their slots, behind the whole prefix."""
    prefix_tokens = cache.shape.prefix_tokens
    return CachedAttention(operations, cache.prefix, prefix_tokens, cache.own, slots, positions)


class PrefixPiece(CachedAttention):
    """For tokens of the prefix, which become a part of it: they see what is there already."""

    def __init__(self, cache: KeyValueCache, operations: Operations, piece: slice) -> None:
        positions = torch.arange(piece.stop - piece.start, device=cache.own.device)
        sizes = (2, 1, cache.shape.kv_heads, len(positions), cache.shape.head_dim)
        # A slot for the piece, whose room one layer after the other uses.
        own = cache.own.new_empty(sizes).expand(cache.shape.layers, *sizes)
        slots = torch.zeros_like(positions)
        super().__init__(operations, cache.prefix, piece.start, own, slots, positions)
        self.stored = cache.prefix[:, :, :, piece]

    def __call__(
        self, layer: int, heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        """As for other tokens."""
        outputs = super().__call__(layer, heads, cosines, sines)
        self.stored[layer] = self.own[layer][:, 0]
        return outputs
