"""Keys and values: one shared prefix, and a slot for each sequence's own part."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.attention import attend, fold_groups, merge, unfold_groups


@dataclass(frozen=True)
class CacheShape:
    """Sizes on one rank."""

    layers: int
    kv_heads: int
    head_dim: int
    prefix_tokens: int
    slots: int
    own_tokens: int

    @property
    def numbers(self) -> int:
        """How many numbers prefix and slots hold together."""
        tokens = self.prefix_tokens + self.slots * self.own_tokens
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens


class KeyValueCache:
    """The prefix is written once and never copied; slot i belongs to the i-th live sequence."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        sizes = (shape.kv_heads, shape.prefix_tokens, shape.head_dim)
        self.prefix = torch.zeros(shape.layers, 2, 1, *sizes, dtype=dtype, device=device)
        sizes = (shape.kv_heads, shape.own_tokens, shape.head_dim)
        # [layers, keys/values, slots, kv_heads, own tokens, head_dim]
        self.own = torch.zeros(shape.layers, 2, shape.slots, *sizes, dtype=dtype, device=device)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.own[:, :, target, :, :tokens] = self.own[:, :, source, :, :tokens]

    def prefix_part(self, layer: int, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of queries [tokens, heads, head_dim] over the prefix."""
        keys, values = self.prefix[layer]
        part = attend(fold_groups(queries, self.shape.kv_heads), keys, values)
        return unfold_groups(part, len(queries))


class PrefixFill:
    """Attention of the prefix over itself; writes the prefix's keys and values."""

    def __init__(self, cache: KeyValueCache, tokens: slice) -> None:
        self.cache = cache
        self.tokens = tokens

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [tokens, heads, head_dim]; keys, values: [tokens, kv_heads, head_dim]."""
        stored = self.cache.prefix[layer]
        stored[0, 0, :, self.tokens] = keys.transpose(0, 1)
        stored[1, 0, :, self.tokens] = values.transpose(0, 1)
        own = _causal(queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0))
        own = own[0][0].transpose(0, 1), own[1][0].transpose(0, 1)
        if self.tokens.start == 0:
            return own[0]
        before = stored[:, :, :, : self.tokens.start]
        earlier = attend(fold_groups(queries, keys.shape[1]), before[0], before[1])
        return merge(unfold_groups(earlier, len(queries)), own)


class PromptFill:
    """Attention of newly admitted prompts, laid end to end, over the prefix and themselves."""

    def __init__(self, cache: KeyValueCache, first_slot: int, lengths: list[int]) -> None:
        self.cache = cache
        counts = torch.tensor(lengths)
        row = torch.repeat_interleave(torch.arange(len(lengths)), counts)  # [tokens], which prompt
        starts = counts.cumsum(0) - counts
        columns = torch.arange(max(lengths))
        # [prompts, longest]: where in the flat batch a token lies; padding points at its end.
        padded = (starts[:, None] + columns).clamp_(max=sum(lengths) - 1)
        # Made on the host: on CUDA, sizes that depend on values would wait for the device.
        device = cache.own.device
        self.row = row.to(device)
        self.position = (torch.arange(sum(lengths)) - starts[row]).to(device)
        self.slot = self.row + first_slot
        self.padded = padded.to(device)

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [tokens, heads, head_dim]; keys, values: [tokens, kv_heads, head_dim]."""
        stored = self.cache.own[layer]
        stored[0][self.slot, :, self.position] = keys
        stored[1][self.slot, :, self.position] = values
        # A token sees no later one, so the padding behind a prompt changes nothing.
        padded = self.padded
        outputs, sums = _causal(queries[padded], keys[padded], values[padded])
        own = outputs[self.row, :, self.position], sums[self.row, :, self.position]
        if self.cache.shape.prefix_tokens == 0:
            return own[0]
        return merge(self.cache.prefix_part(layer, queries), own)


class DecodeStep:
    """Attention of one new token per live sequence over the prefix and its own part."""

    def __init__(
        self, cache: KeyValueCache, positions: torch.Tensor, extents: Sequence[tuple[slice, int]]
    ) -> None:
        """positions: [live], where in its slot each sequence's new token goes.

        extents: slots that are attended together, and a length that their positions lie below.
        """
        self.cache = cache
        self.positions = positions
        self.rows = torch.arange(len(positions), device=positions.device)
        self.groups = [(slots, longest, self._mask(slots, longest)) for slots, longest in extents]

    def _mask(self, slots: slice, longest: int) -> torch.Tensor:
        """What to add to scores: [slots, 1, 1, longest], minus infinity beyond a position."""
        columns = torch.arange(longest, device=self.positions.device)
        beyond = columns > self.positions[slots, None]
        mask = torch.zeros(beyond.shape, dtype=self.cache.own.dtype, device=columns.device)
        return mask.masked_fill_(beyond, float("-inf"))[:, None, None, :]

    def __call__(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """queries: [live, heads, head_dim]; keys, values: [live, kv_heads, head_dim]."""
        stored = self.cache.own[layer]
        stored[0][self.rows, :, self.positions] = keys
        stored[1][self.rows, :, self.positions] = values
        grouped = queries.view(len(queries), keys.shape[1], -1, queries.shape[-1])
        parts = [
            attend(
                grouped[slots], stored[0, slots, :, :longest], stored[1, slots, :, :longest], mask
            )
            for slots, longest, mask in self.groups
        ]
        own = tuple(torch.cat(part).flatten(1, 2) for part in zip(*parts, strict=True))
        if self.cache.shape.prefix_tokens == 0:
            return own[0]
        return merge(self.cache.prefix_part(layer, queries), own)


def _causal(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of [rows, tokens, heads, head_dim] with fewer key/value heads."""
    group = queries.shape[2] // keys.shape[2]
    keys, values = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (keys, values))
    return attend(queries.transpose(1, 2), keys, values, causal=True)
