"""The most tokens per second that a device's memory and arithmetic allow for a workload.

Each part of a step takes at least as long as its bytes take to read, and as its products take to
compute; the parts follow each other. (Roofline: Williams et al. 2009.)
"""

from dataclasses import dataclass

from benchmark_model import ModelSize
from generation_workload import Workload


@dataclass(frozen=True)
class Device:
    """What a device can do: bytes and floating-point operations per second."""

    bandwidth: float
    flops: float

    def seconds(self, read_bytes: float, operations: float) -> float:
        """The least time for this much reading and computing."""
        return max(read_bytes / self.bandwidth, operations / self.flops)


# By a part of the name that CUDA gives. Bandwidth from the data sheets; operations are dense
# 16-bit matrix products as large products reach them, for the H100 and H200 about 80 % of the
# data sheet's.
DEVICES = {
    "H200": Device(4.8e12, 790e12),
    "H100": Device(3.35e12, 790e12),
    "A100": Device(2.0e12, 312e12),
    "V100": Device(0.9e12, 125e12),
}


def known_device(name: str) -> Device | None:
    """The device that a name stands for, where the table has it."""
    return next((device for key, device in DEVICES.items() if key in name), None)


def step_seconds(
    size: ModelSize, device: Device, rows: float, prefix: int, own: float, itemsize: int
) -> dict[str, float]:
    """The least time of a step's parts, for `rows` sequences with `own` own tokens each."""
    weights = size.layer_weights + size.head_weights
    # keys and values of one token; operations of one query on one token: two products, two each
    token_bytes = 2 * size.num_hidden_layers * size.num_key_value_heads * size.head_dim * itemsize
    token_operations = 4 * size.num_hidden_layers * size.hidden_size
    return {
        "linear layers": device.seconds(weights * itemsize, 2 * rows * weights),
        "prefix part": device.seconds(prefix * token_bytes, rows * prefix * token_operations),
        "own part": device.seconds(rows * own * token_bytes, rows * own * token_operations),
    }


def bound(
    size: ModelSize, device: Device, workload: Workload, slots: int, itemsize: int
) -> dict[str, float]:
    """The parts of an ideal run in seconds, and its useful tokens per second.

    All slots live in every step; prompts are computed at the full rate of the arithmetic.
    """
    tokens = workload.useful_tokens
    pairs = zip(workload.prompts, workload.lengths, strict=True)
    # a response's tokens see the prompt and, on average, half of the response
    own = sum((len(prompt) + length / 2) * length for prompt, length in pairs) / tokens
    rows = min(slots, len(workload.prompts))
    step = step_seconds(size, device, rows, len(workload.prefix), own, itemsize)
    seconds = {part: tokens / rows * value for part, value in step.items()}
    prompt_tokens = sum(map(len, workload.prompts))
    attention = 4 * size.num_hidden_layers * size.hidden_size * len(workload.prefix)
    seconds["prompts"] = prompt_tokens * (2 * size.layer_weights + attention) / device.flops
    return {"seconds": seconds, "tokens_per_second": tokens / sum(seconds.values())}
