"""What is generated: a prefix, prompts behind it, how long each response gets, and the least time.

The bound of a device: each part of a step takes at least as long as its bytes take to read, and as
its products take to compute; the parts follow each other. (Roofline: Williams et al. 2009.)
"""

import random
from dataclasses import dataclass, replace

from random_model import ModelSize, text_of

PROMPT_TOKENS = (8, 96)  # of a prompt, drawn evenly
MEAN_RESPONSE_TOKENS = 64  # of an exponential distribution …
MAX_RESPONSE_TOKENS = 192  # … cut off here


@dataclass(frozen=True)
class Workload:
    """Token ids of the prefix and of each prompt; how many tokens each response has."""

    prefix: list[int]
    prompts: list[list[int]]
    lengths: list[int]

    @property
    def useful_tokens(self) -> int:
        """Tokens of all responses: what a run is for."""
        return sum(self.lengths)

    @property
    def own_tokens(self) -> int:
        """The room that a slot needs: the longest prompt and the longest response."""
        return max(map(len, self.prompts)) + max(self.lengths)

    @property
    def prefix_text(self) -> str:
        """The prefix as text; its last word stands on a line of its own, as a turn's name does."""
        return f"{text_of(self.prefix[:-1])}\n{text_of(self.prefix[-1:])}"

    def first(self, count: int) -> "Workload":
        """The same with the first prompts only."""
        return replace(self, prompts=self.prompts[:count], lengths=self.lengths[:count])


def draw_workload(vocab_size: int, prefix_tokens: int, prompts: int, seed: int) -> Workload:
    """Draws tokens and lengths; the first n prompts are the same however many are asked for."""
    lengths, words = random.Random(f"{seed} lengths"), random.Random(f"{seed} words")
    prefix = random.Random(f"{seed} prefix").choices(range(vocab_size), k=prefix_tokens)
    own = [
        words.choices(range(vocab_size), k=words.randint(*PROMPT_TOKENS)) for _ in range(prompts)
    ]
    drawn = [
        min(1 + int(lengths.expovariate(1 / MEAN_RESPONSE_TOKENS)), MAX_RESPONSE_TOKENS)
        for _ in range(prompts)
    ]
    return Workload(prefix, own, drawn)


@dataclass(frozen=True)
class DeviceLimits:
    """What a device can do: bytes and floating-point operations per second."""

    bandwidth: float
    flops: float

    def seconds(self, read_bytes: float, operations: float) -> float:
        """The least time for this much reading and computing."""
        return max(read_bytes / self.bandwidth, operations / self.flops)


# By a part of the name that CUDA gives. Bandwidth from the data sheets; operations are dense
# 16-bit matrix products as large products reach them, for the H100 and H200 about 80 % of the
# data sheet's.
KNOWN_LIMITS = {
    "H200": DeviceLimits(4.8e12, 790e12),
    "H100": DeviceLimits(3.35e12, 790e12),
    "A100": DeviceLimits(2.0e12, 312e12),
    "V100": DeviceLimits(0.9e12, 125e12),
}


def most_tokens_per_second(
    size: ModelSize, device: DeviceLimits, workload: Workload, slots: int, itemsize: int
) -> float:
    """Useful tokens per second of an ideal run.

    All slots live in every step; prompts are computed at the full rate of the arithmetic.
    """
    tokens, prefix = workload.useful_tokens, len(workload.prefix)
    pairs = zip(workload.prompts, workload.lengths, strict=True)
    # a response's tokens see the prompt and, on average, half of the response
    own = sum((len(prompt) + length / 2) * length for prompt, length in pairs) / tokens
    rows = min(slots, len(workload.prompts))
    weights = size.layer_weights + size.head_weights
    # keys and values of one token; operations of one query on one token: two products, two each
    token_bytes = 2 * size.num_hidden_layers * size.num_key_value_heads * size.head_dim * itemsize
    token_operations = 4 * size.num_hidden_layers * size.hidden_size
    step = (
        device.seconds(weights * itemsize, 2 * rows * weights)
        + device.seconds(prefix * token_bytes, rows * prefix * token_operations)
        + device.seconds(rows * own * token_bytes, rows * own * token_operations)
    )
    prompt_tokens = sum(map(len, workload.prompts))
    prompts = prompt_tokens * (2 * size.layer_weights + prefix * token_operations) / device.flops
    return tokens / (tokens / rows * step + prompts)
