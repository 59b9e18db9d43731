"""Keys and values: one shared prefix, and a slot for each sequence's own part."""

from dataclasses import dataclass

import torch

PREFIX_ALIGNMENT = 32  # matrix products dislike odd sizes


def padded_prefix(tokens: int) -> int:
    """Places for the tokens of a prefix, filled up to a size that products like."""
    return -(-tokens // PREFIX_ALIGNMENT) * PREFIX_ALIGNMENT


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

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        sizes = (shape.kv_heads, padded_prefix(shape.prefix_tokens), shape.head_dim)
        # [layers, keys/values, kv_heads, prefix tokens and zeros, head_dim]
        self.prefix = torch.zeros(shape.layers, 2, *sizes, dtype=dtype, device=device)
        sizes = (shape.slots, shape.kv_heads, shape.own_tokens, shape.head_dim)
        # [layers, keys/values, slots, kv_heads, own tokens, head_dim]
        self.own = torch.zeros(shape.layers, 2, *sizes, dtype=dtype, device=device)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.own[:, :, target, :, :tokens] = self.own[:, :, source, :, :tokens]
