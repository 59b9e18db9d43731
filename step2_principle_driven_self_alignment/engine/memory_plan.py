"""How much memory a run needs, from the model's config alone, before any weight is read."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.head_layout import HeadLayout, padded_share
from engine.kv_cache import padded_prefix
from engine.model_config import ModelConfig
from engine.operations import TOKENS_AT_A_TIME

GIB = 2**30
PREFILL_TOKENS = 512  # tokens of the prefix, or of new prompts, that go through the model at once
LOGITS_COPIES = 14  # as float32: logits, scaled, probabilities; in PyTorch also noise, in 64 bits
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


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
        """Raises ValueError, with the largest number of slots that fits, if this doesn't."""
        if self.total <= self.available:
            return
        remedy = (
            f"give --slots {self.largest_slots} or fewer"
            if self.largest_slots > 0
            else "not even one slot fits: spread the model over more ranks (--tensor_parallel)"
        )
        raise ValueError(
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
    filled = max(PREFILL_TOKENS, own_tokens)  # a prompt goes through the model in one piece
    states = filled * _count_states(config, layout) * torch.float32.itemsize
    # Without compiled operations, scores and some keys are copied as float32.
    copied = size + torch.float32.itemsize
    states += TOKENS_AT_A_TIME * slot // config.layers // size * copied
    scores = heads * padded_prefix(prefix_tokens) * copied  # of one token
    free = available - weights - prefix - states
    return MemoryPlan(
        weights=weights,
        prefix=prefix,
        slot=slot,
        slots=slots,
        # Prompts are filled and tokens decoded in turn.
        workspace=states + slots * logits + max(filled, slots) * scores,
        available=available,
        largest_slots=min(
            (free - filled * scores) // (slot + logits), free // (slot + logits + scores)
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


def available_memory(device: torch.device) -> int:
    """Bytes that this process may use: what its GPU has, or its share of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_linux_available()]
    if CGROUP_LIMIT.is_file() and CGROUP_LIMIT.read_text().strip() != "max":
        limits.append(int(CGROUP_LIMIT.read_text()))
    processes = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1")
    return min(limits) // int(processes)


def _linux_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not tell the available memory")
