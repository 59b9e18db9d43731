"""What a run of the engine did, and where its time went."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class EngineStatistics:
    """Counts, and seconds by stage: load, prefix, prefill, decode, sampling, text."""

    prefix_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    @property
    def mean_live_slots(self) -> float:
        """Live sequences in an average step."""
        return self.slot_steps / max(self.steps, 1)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def note_peak_memory(self, device: torch.device) -> None:
        """Reads the highest memory use so far: of the device, or of the process on CPU."""
        if device.type == "cuda":
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
        else:
            self.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
