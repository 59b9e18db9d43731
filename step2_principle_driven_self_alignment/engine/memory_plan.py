"""How much memory a run needs, from the model's config alone, before any weight is read."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.attention import padded_prefix
from engine.head_layout import HeadLayout, padded_share
from engine.kv_cache import SEGMENT_TOKENS
from engine.model_config import ModelConfig

GIB = 2**30
PREFILL_TOKENS = 512  # tokens of the prefix, or of new prompts, that go through the model at once
LOGITS_COPIES = 4  # as the head gives them, in float32, divided by the temperature, one spare
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank."""

    weights: int
    prefix: int
    slot: int
    slots: int
    workspace: int
    available: int

    @property
    def total(self) -> int:
        """All that the plan asks for."""
        return self.weights + self.prefix + self.slots * self.slot + self.workspace

    @property
    def largest_slots(self) -> int:
        """The most slots that fit; 0 or less if not even one does."""
        return (self.available - (self.total - self.slots * self.slot)) // self.slot

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
    token = 2 * config.layers * layout.kv_heads_per_rank * config.head_dim * dtype.itemsize
    vocab = padded_share(config.vocab_size, layout.ranks)
    feed_forward = padded_share(config.feed_forward_size, layout.ranks)
    heads = layout.query_heads_per_rank + 2 * layout.kv_heads_per_rank
    attention = (heads + layout.query_heads_per_rank) * config.head_dim
    per_layer = config.hidden_size * (attention + 3 * feed_forward + 2)
    weights = config.layers * per_layer + 2 * vocab * config.hidden_size
    states = 6 * config.hidden_size + 3 * feed_forward + 4 * attention
    logits = slots * config.vocab_size * LOGITS_COPIES * torch.float32.itemsize
    filled = max(PREFILL_TOKENS, own_tokens)  # a prompt goes through the model in one piece
    columns = padded_prefix(prefix_tokens)
    fill_scores = filled * (columns * dtype.itemsize + filled * (dtype.itemsize + 8))
    step_scores = slots * (columns * dtype.itemsize + own_tokens * (dtype.itemsize + 8))
    scores = layout.query_heads_per_rank * max(fill_scores, step_scores)
    return MemoryPlan(
        weights=weights * dtype.itemsize,
        prefix=padded_prefix(prefix_tokens) * token,
        slot=-(-own_tokens // SEGMENT_TOKENS) * SEGMENT_TOKENS * token,
        slots=slots,
        workspace=filled * states * torch.float32.itemsize + logits + scores,
        available=available,
    )


def available_memory(device: torch.device, processes: int) -> int:
    """Bytes that one of `processes` processes on this machine may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_linux_available()]
    if CGROUP_LIMIT.is_file() and CGROUP_LIMIT.read_text().strip() != "max":
        limits.append(int(CGROUP_LIMIT.read_text()))
    return min(limits) // processes


def _linux_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not tell the available memory")
