"""How much memory a run needs, from the model's config alone, before any weight is read."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from user_error import UserError

from engine.device import gpu_reserve
from engine.head_layout import HeadLayout, padded_share
from engine.model_config import ModelConfig
from engine.operations import TOKENS_AT_A_TIME, padded_prefix

GIB = 2**30
LOGITS_COPIES = 14  # as float32: logits, scaled, probabilities; in PyTorch also noise, in 64 bits
FLASH_COPIES = 16  # of a token's queries: for the pieces of the prefix, and their outputs
SLOTS_ON_CPU, MOST_SLOTS_ON_GPU, SHARE_OF_FITTING = 64, 512, 0.9  # chosen by `auto`
GPU_SIZES = (80, 40, 32, 24)  # GiB
USABLE_GPU_SHARE = 0.98  # the rest is the driver's


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
            f"--slots {self.slots} needs {self.total / GIB:.2f} GiB on each rank, and "
            f"{self.available / GIB:.2f} GiB are available; {remedy}"
        )

    def __str__(self) -> str:
        return (
            f"memory on each rank: weights {self.weights / GIB:.2f} GiB + prefix "
            f"{self.prefix / GIB:.2f} + {self.slots} slots {self.slots * self.slot / GIB:.2f} + "
            f"workspace {self.workspace / GIB:.2f} = {self.total / GIB:.2f} GiB of "
            f"{self.available / GIB:.2f} available; the most slots that fit: "
            f"{max(self.largest_slots, 0) or 'none'}"
        )


def plan(
    config: ModelConfig,
    layout: HeadLayout,
    dtype: torch.dtype,
    *,
    prefix_tokens: int,
    slots: int | None,
    own_tokens: int,
    prefill_tokens: int,
    available: int,
    on_gpu: bool = False,
    flash: bool = False,
) -> MemoryPlan:
    """Sizes in bytes from shapes; `own_tokens` are those of one slot.

    `slots` None: as many as are of use and fit. `flash`: attention by FlashAttention's kernels.
    """
    size, copy = dtype.itemsize, torch.float32.itemsize
    token = 2 * config.layers * layout.kv_heads_per_rank * config.head_dim * size
    weights = _count_weights(config, layout) * size
    prefix = padded_prefix(prefix_tokens) * token
    slot = own_tokens * token
    logits = config.vocab_size * LOGITS_COPIES * copy  # of one slot
    prefilled = max(prefill_tokens, own_tokens)  # a prompt goes through the model in one piece
    states = prefilled * _count_states(config, layout) * copy
    if flash:
        scores = layout.query_heads_per_rank * config.head_dim * FLASH_COPIES * (size + copy)
    else:  # scores and some keys are copied as float32
        at_a_time = TOKENS_AT_A_TIME["cuda" if on_gpu else "cpu"]
        states += at_a_time * slot // config.layers // size * (size + copy)
        scores = layout.query_heads_per_rank * padded_prefix(prefix_tokens) * (size + 2 * copy)
    free = available - weights - prefix - states
    largest = min((free - prefilled * scores) // (slot + logits), free // (slot + logits + scores))
    if slots is None:
        wanted = int(min(MOST_SLOTS_ON_GPU, SHARE_OF_FITTING * largest)) if on_gpu else SLOTS_ON_CPU
        slots = max(1, min(wanted, largest))
    return MemoryPlan(
        weights=weights,
        prefix=prefix,
        slot=slot,
        slots=slots,
        # Prefill and decoding take turns.
        workspace=states + slots * logits + max(prefilled, slots) * scores,
        available=available,
        largest_slots=largest,
    )


def gpu_table(plan_for: Callable[[int, int], MemoryPlan], degrees: list[int]) -> str:
    """A table for people: what lies on each GPU, and the most slots, by the size of the GPUs.

    `plan_for(degree, bytes available)` plans for a model that is spread over `degree` GPUs.
    """
    import pandas as pd  # half a second, which a run does without

    rows = []
    for degree in degrees:
        totals = [int(gib * GIB * USABLE_GPU_SHARE) for gib in GPU_SIZES]
        plans = [plan_for(degree, total - gpu_reserve(total)) for total in totals]
        lies = {name: getattr(plans[0], name) / GIB for name in ("weights", "prefix", "slot")}
        fits = [str(max(plan.largest_slots, 0) or "none") for plan in plans]
        names = [f"slots on {gib} GB" for gib in GPU_SIZES]
        rows.append({"GPUs": degree} | lies | dict(zip(names, fits, strict=True)))
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.3f} GiB".format)


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
