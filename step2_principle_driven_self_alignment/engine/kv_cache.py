"""Keys and values: one shared prefix, and a slot for each sequence's own part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from engine.attention import (
    causal_mask,
    fold_groups,
    join_prefix,
    padded_prefix,
    unfold_groups,
    weigh,
)

SEGMENT_TOKENS = 64  # on CPU; on CUDA a slot is one segment


@dataclass(frozen=True)
class CacheShape:
    """Sizes on one rank.

    A slot's own tokens lie in segments, so that the same segment of neighbouring slots is one
    piece of memory: what CPU kernels multiply without copying it first.
    """

    layers: int
    kv_heads: int
    group: int  # query heads to a key/value head
    head_dim: int
    prefix_tokens: int
    slots: int
    own_tokens: int
    segment_tokens: int

    @property
    def segments(self) -> int:
        """Segments in a slot."""
        return -(-self.own_tokens // self.segment_tokens)


@dataclass(frozen=True)
class Piece:
    """The first `tokens` tokens of a segment, of neighbouring slots."""

    segment: int
    slots: slice
    tokens: int


class KeyValueCache:
    """The prefix is written once and never copied; slot i belongs to the i-th live sequence."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        sizes = (shape.kv_heads, padded_prefix(shape.prefix_tokens), shape.head_dim)
        # [layers, keys/values, kv_heads, prefix tokens and zeros, head_dim]
        self.prefix = torch.zeros(shape.layers, 2, *sizes, dtype=dtype, device=device)
        sizes = (shape.slots, shape.kv_heads, shape.segment_tokens, shape.head_dim)
        # [layers, keys/values, segments, slots, kv_heads, tokens of a segment, head_dim]
        self.own = torch.zeros(shape.layers, 2, shape.segments, *sizes, dtype=dtype, device=device)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        segments = slice(0, -(-tokens // self.shape.segment_tokens))
        self.own[:, :, segments, target] = self.own[:, :, segments, source]

    def store_own(
        self,
        layer: int,
        slots: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        """Writes keys, values [tokens, kv_heads, head_dim] to slots and positions [tokens]."""
        size = self.shape.segment_tokens
        place = (positions // size, slots, slice(None), positions % size)
        self.own[layer, 0][place] = keys
        self.own[layer, 1][place] = values

    def scaled(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries [tokens, heads, head_dim], folded, times 1 / sqrt(head_dim)."""
        return fold_groups(queries * self.shape.head_dim**-0.5, self.shape.kv_heads)

    def prefix_scores(self, tokens: int, prefix_tokens: int) -> torch.Tensor:
        """Room for the scores of a batch of tokens, used by one layer after the other."""
        rows = tokens * self.shape.group
        return self.own.new_empty(self.shape.kv_heads, rows, padded_prefix(prefix_tokens))


class _Fill:
    """Attention of new tokens, laid end to end, over the prefix so far and their own sequence.

    All of them are scored against all, as one product, and masked: few beside the prefix.
    """

    def __init__(self, cache: KeyValueCache, prefix_tokens: int, lengths: list[int]) -> None:
        self.cache = cache
        self.prefix_tokens = prefix_tokens
        self.mask = causal_mask(lengths, cache.own.device)[:, None]  # [tokens, 1, tokens]
        self.prefix_scores = cache.prefix_scores(sum(lengths), prefix_tokens)
        sizes = (cache.shape.kv_heads, sum(lengths) * cache.shape.group, sum(lengths))
        # New memory for each layer would cost the system more than the products that fill it.
        self.products = cache.own.new_empty(sizes)
        self.scores = self.mask.new_empty(sizes)

    def _attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [tokens, heads, head_dim]; keys, values: [tokens, kv_heads, head_dim]."""
        tokens = len(queries)
        folded = self.cache.scaled(queries)
        torch.bmm(folded, keys.permute(1, 2, 0), out=self.products)
        self.scores.copy_(self.products).view(len(folded), tokens, -1, tokens).add_(self.mask)
        weights, sums = weigh(self.scores)
        outputs = torch.bmm(self.products.copy_(weights), values.transpose(0, 1))
        if self.prefix_tokens:
            prefix = self.cache.prefix[layer, :, :, : self.prefix_scores.shape[-1]]
            outputs = join_prefix(
                folded, *prefix, self.prefix_tokens, outputs, sums, self.prefix_scores
            )
        return unfold_groups(outputs, tokens)


class PrefixFill(_Fill):
    """A piece of the prefix; writes the prefix's keys and values."""

    def __init__(self, cache: KeyValueCache, piece: slice) -> None:
        super().__init__(cache, piece.start, [piece.stop - piece.start])
        self.piece = piece

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [tokens, heads, head_dim]; keys, values: [tokens, kv_heads, head_dim]."""
        outputs = self._attend(layer, queries, keys, values)
        stored = self.cache.prefix[layer, :, :, self.piece]
        stored[0], stored[1] = keys.transpose(0, 1), values.transpose(0, 1)
        return outputs


class PromptFill(_Fill):
    """Newly admitted prompts; writes the own keys and values of their slots."""

    def __init__(self, cache: KeyValueCache, first_slot: int, lengths: list[int]) -> None:
        super().__init__(cache, cache.shape.prefix_tokens, lengths)
        slots = torch.arange(first_slot, first_slot + len(lengths))
        positions = [torch.arange(length) for length in lengths]
        self.slots = torch.repeat_interleave(slots, torch.tensor(lengths)).to(cache.own.device)
        self.positions = torch.cat(positions).to(cache.own.device)  # [tokens], in the own part

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [tokens, heads, head_dim]; keys, values: [tokens, kv_heads, head_dim]."""
        self.cache.store_own(layer, self.slots, self.positions, keys, values)
        return self._attend(layer, queries, keys, values)


class DecodeStep:
    """Attention of one new token per live sequence over the prefix and its own part."""

    def __init__(
        self, cache: KeyValueCache, positions: torch.Tensor, pieces: Sequence[Piece]
    ) -> None:
        """positions: [live], where in its slot each sequence's new token goes.

        pieces: what to attend to, at least all that the positions reach.
        """
        self.cache = cache
        self.positions = positions
        self.pieces = pieces
        shape, live = cache.shape, len(positions)
        self.slots = torch.arange(live, device=positions.device)
        extent = max(piece.segment * shape.segment_tokens + piece.tokens for piece in pieces)
        columns = torch.arange(extent, device=positions.device)
        mask = torch.zeros(live, extent, device=positions.device)
        mask.masked_fill_(columns > positions[:, None], float("-inf"))
        # Slots and key/value heads are one dimension here: [slots * kv_heads, group, extent].
        self.mask = mask.repeat_interleave(shape.kv_heads, dim=0)[:, None]
        self.scores = mask.new_empty(live * shape.kv_heads, shape.group, extent)
        self.prefix_scores = cache.prefix_scores(live, shape.prefix_tokens)

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [live, heads, head_dim]; keys, values: [live, kv_heads, head_dim]."""
        cache, live = self.cache, len(queries)
        cache.store_own(layer, self.slots, self.positions, keys, values)
        folded = cache.scaled(queries)
        outputs, sums = self._attend_own(layer, unfold_groups(folded, live))
        prefix_tokens = cache.shape.prefix_tokens
        if prefix_tokens:
            outputs = fold_groups(outputs, cache.shape.kv_heads)
            sums = fold_groups(sums.unsqueeze(-1), cache.shape.kv_heads).squeeze(-1)
            prefix = cache.prefix[layer]
            outputs = join_prefix(folded, *prefix, prefix_tokens, outputs, sums, self.prefix_scores)
            outputs = unfold_groups(outputs, live)
        return outputs

    def _attend_own(self, layer: int, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs [live, heads, head_dim] and float32 log-sum-exps [live, heads]."""
        shape = self.cache.shape
        by_slot = queries.reshape(-1, shape.group, shape.head_dim)  # [slots * kv_heads, …]
        self.scores.copy_(self.mask)
        for rows, columns, keys, _ in self._operands(layer):
            # Keys times queries is the faster order on CPU.
            products = torch.bmm(keys, by_slot[rows].transpose(1, 2))
            self.scores[rows, :, columns].add_(products.transpose(1, 2))
        weights, sums = weigh(self.scores)
        weights = weights.to(queries.dtype)
        outputs = torch.zeros_like(by_slot)
        for rows, columns, _, values in self._operands(layer):
            outputs[rows].baddbmm_(weights[rows, :, columns], values)
        return outputs.view(queries.shape), sums.view(queries.shape[:2])

    def _operands(self, layer: int) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
        """For each piece: its rows and columns of the scores, its keys and its values."""
        shape = self.cache.shape
        for piece in self.pieces:
            keys, values = self.cache.own[layer, :, piece.segment, piece.slots, :, : piece.tokens]
            rows = slice(piece.slots.start * shape.kv_heads, piece.slots.stop * shape.kv_heads)
            start = piece.segment * shape.segment_tokens
            columns = slice(start, start + piece.tokens)
            yield rows, columns, keys.flatten(0, 1), values.flatten(0, 1)
