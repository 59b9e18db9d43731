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
        self, layer: int, heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        """heads: [tokens, heads + 2 kv_heads, head_dim], queries, keys and values, not rotated.

        cosines, sines: [tokens, head_dim]. Returns [tokens, heads, head_dim].
        """
        rotary, cache = (cosines, sines), self.cache
        return self.operations.attention(
            self.batch, heads, rotary, cache.prefix[layer], cache.own[layer]
        )


class PrefixPiece:
    """For tokens of the prefix, which become a part of it: they see what is there already."""

    def __init__(self, cache: KeyValueCache, operations: Operations, piece: slice) -> None:
        tokens = piece.stop - piece.start
        self.cache, self.operations, self.piece = cache, operations, piece
        self.own = cache.one_slot(tokens)  # one layer after the other uses the same room
        positions = torch.arange(tokens, device=cache.own.device)
        self.batch = TokenBatch(torch.zeros_like(positions), positions, piece.start, [tokens])

    def __call__(
        self, layer: int, heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        """As for other tokens."""
        prefix = self.cache.prefix[layer]
        outputs = self.operations.attention(self.batch, heads, (cosines, sines), prefix, self.own)
        prefix[:, :, self.piece] = self.own[:, 0]
        return outputs
