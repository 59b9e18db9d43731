"""How much memory a run needs, from the model's config alone, before any weight is read."""

from dataclasses import dataclass

import torch
from user_error import UserError

from engine.head_layout import HeadLayout, padded_share
from engine.model_config import ModelConfig
from engine.operations import TOKENS_AT_A_TIME, padded_prefix

GIB = 2**30
PREFILL_TOKENS = 512  # tokens of the prefix, or of new prompts, that go through the model at once
LOGITS_COPIES = 14  # as float32: logits, scaled, probabilities; in PyTorch also noise, in 64 bits


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank; `largest_slots`: the most slots that fit, 0 or less if none does."""

    weights: int
    prefix: int
    slot: int
    slots: int
    workspace: int
    available: int
    largest_slots: int

    @property
    def total(self) -> int:
        """All that the plan asks for."""
        return self.weights + self.prefix + self.slots * self.slot + self.workspace

    def check(self) -> None:
        """Raises UserError, with the largest number of slots that fits, if this doesn't."""
        if self.total <= self.available:
            return
        remedy = (
            f"give --slots {self.largest_slots} or fewer"
            if self.largest_slots > 0
            else "not even one slot fits: spread the model over more ranks (--tensor_parallel)"
        )
        raise UserError(
            f"{self.slots} slots need {self.total / GIB:.2f} GiB on each rank, and "
            f"{self.available / GIB:.2f} GiB are available; {remedy}"
        )

    def __str__(self) -> str:
        return (
            f"memory on each rank: weights {self.weights / GIB:.2f} GiB + prefix "
            f"{self.prefix / GIB:.2f} + {self.slots} slots {self.slots * self.slot / GIB:.2f} + "
            f"workspace {self.workspace / GIB:.2f} = {self.total / GIB:.2f} GiB of "
            f"{self.available / GIB:.2f} available; the most slots that fit: {self.largest_slots}"
        )


def plan(
    config: ModelConfig,
    layout: HeadLayout,
    dtype: torch.dtype,
    *,
    prefix_tokens: int,
    slots: int,
    own_tokens: int,
    available: int,
) -> MemoryPlan:
    """Sizes in bytes from shapes; `own_tokens` are those of one slot."""
    size = dtype.itemsize
    heads = layout.query_heads_per_rank
    token = 2 * config.layers * layout.kv_heads_per_rank * config.head_dim * size
    weights = _count_weights(config, layout) * size
    prefix = padded_prefix(prefix_tokens) * token
    slot = own_tokens * token
    logits = config.vocab_size * LOGITS_COPIES * torch.float32.itemsize  # of one slot
    prefilled = max(PREFILL_TOKENS, own_tokens)  # a prompt goes through the model in one piece
    states = prefilled * _count_states(config, layout) * torch.float32.itemsize
    # Without compiled operations, scores and some keys are copied as float32.
    copied = size + torch.float32.itemsize
    states += TOKENS_AT_A_TIME * slot // config.layers // size * copied
    copied += torch.float32.itemsize
    scores = heads * padded_prefix(prefix_tokens) * copied  # of one token
    free = available - weights - prefix - states
    return MemoryPlan(
        weights=weights,
        prefix=prefix,
        slot=slot,
        slots=slots,
        # Prefill and decoding take turns.
        workspace=states + slots * logits + max(prefilled, slots) * scores,
        available=available,
        largest_slots=min(
            (free - prefilled * scores) // (slot + logits), free // (slot + logits + scores)
        ),
    )


def _count_weights(config: ModelConfig, layout: HeadLayout) -> int:
    """Numbers in one rank's share of the weights."""
    vocab = padded_share(config.vocab_size, layout.ranks)
    feed_forward = padded_share(config.feed_forward_size, layout.ranks)
    heads = 2 * layout.query_heads_per_rank + 2 * layout.kv_heads_per_rank
    per_layer = config.hidden_size * (heads * config.head_dim + 3 * feed_forward + 2)
    return config.layers * per_layer + 2 * vocab * config.hidden_size


def _count_states(config: ModelConfig, layout: HeadLayout) -> int:
    """Numbers that a token needs on its way through a layer, about."""
    feed_forward = padded_share(config.feed_forward_size, layout.ranks)
    heads = 2 * layout.query_heads_per_rank + 2 * layout.kv_heads_per_rank
    return 6 * config.hidden_size + 3 * feed_forward + 4 * heads * config.head_dim
