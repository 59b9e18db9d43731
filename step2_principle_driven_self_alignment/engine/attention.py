"""Keys and values: one shared prefix, a slot for each sequence's own part, and who sees what."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.operations import Operations, TokenBatch, padded_prefix


@dataclass(frozen=True)
class CacheShape:
    """Sizes on one rank."""

    layers: int
    kv_heads: int
    head_dim: int
    prefix_tokens: int
    slots: int
    own_tokens: int


class KeyValueCache:
    """The prefix is written once and never copied; slot i belongs to the i-th live sequence."""

    def __init__(
        self,
        shape: CacheShape,
        dtype: torch.dtype,
        device: torch.device,
        *,
        tokens_first: bool = False,
    ) -> None:
        """`tokens_first`: in memory tokens come before heads; the tensors' axes stay the same."""
        self.shape = shape
        self._tokens_first, self._type = tokens_first, {"dtype": dtype, "device": device}
        # [layers, keys/values, kv_heads, prefix tokens and zeros, head_dim]
        prefix = padded_prefix(shape.prefix_tokens)
        self.prefix = self._zeros(shape.layers, 2, tokens=prefix)
        # [layers, keys/values, slots, kv_heads, own tokens, head_dim]
        self.own = self._zeros(shape.layers, 2, shape.slots, tokens=shape.own_tokens)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.own[:, :, target, :, :tokens] = self.own[:, :, source, :, :tokens]

    def one_slot(self, tokens: int) -> torch.Tensor:
        """Room for one sequence in one layer, which is none of the slots: like `own[layer]`."""
        return self._zeros(2, 1, tokens=tokens)

    def _zeros(self, *sizes: int, tokens: int) -> torch.Tensor:
        heads, head_dim = self.shape.kv_heads, self.shape.head_dim
        if self._tokens_first:
            return torch.zeros(*sizes, tokens, heads, head_dim, **self._type).transpose(-2, -3)
        return torch.zeros(*sizes, heads, tokens, head_dim, **self._type)


class CachedAttention:
    """How a batch of tokens behind the whole prefix attends in every layer."""

    def __init__(
        self,
        cache: KeyValueCache,
        operations: Operations,
        slots: torch.Tensor,
        positions: torch.Tensor,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """slots, positions, lengths: as in `TokenBatch`."""
        self.cache, self.operations = cache, operations
        self.batch = TokenBatch(slots, positions, cache.shape.prefix_tokens, lengths)

    def __call__(
        self,
        layer: int,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """heads: [tokens, heads + 2 kv_heads, head_dim], queries, keys and values, not rotated.

        rotary: cosines and sines [tokens, head_dim]; wanted: int64 [wanted], the tokens whose
        outputs are of use, all if None. Returns [wanted, heads, head_dim].
        """
        batch, own = self.batch, self.own(layer)
        if wanted is not None:
            self.operations.cache_write(batch, heads, rotary, own)
            batch = TokenBatch(batch.slots[wanted], batch.positions[wanted], batch.prefix_tokens)
            heads, rotary = heads[wanted], tuple(angles[wanted] for angles in rotary)
        return self.operations.attention(batch, heads, rotary, self.cache.prefix[layer], own)

    def own(self, layer: int) -> torch.Tensor:
        """The slots' keys and values in a layer, [2, slots, kv_heads, own tokens, head_dim]."""
        return self.cache.own[layer]


class PrefixPiece(CachedAttention):
    """For tokens of the prefix, which become a part of it: they see what is there already."""

    def __init__(self, cache: KeyValueCache, operations: Operations, piece: slice) -> None:
        tokens = piece.stop - piece.start
        positions = torch.arange(tokens, device=cache.own.device)
        super().__init__(cache, operations, torch.zeros_like(positions), positions, [tokens])
        self.batch.prefix_tokens, self.piece = piece.start, piece
        self._own = cache.one_slot(tokens)  # one layer after the other uses the same room

    def __call__(
        self,
        layer: int,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As for other tokens."""
        outputs = super().__call__(layer, heads, rotary, wanted)
        self.cache.prefix[layer, :, :, self.piece] = self._own[:, 0]
        return outputs

    def own(self, layer: int) -> torch.Tensor:
        """As for other tokens: the room of the piece."""
        return self._own
