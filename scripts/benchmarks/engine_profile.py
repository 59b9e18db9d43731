"""Where the time of the engine's decoding steps goes, by kind of operator."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.append(f"{Path(__file__).resolve().parents[2]}/step2_principle_driven_self_alignment")

from engine.attention import padded_prefix
from engine.stage_clock import EngineStatistics

ATTENTION = (
    *("aten::bmm", "aten::baddbmm", "aten::softmax", "aten::_softmax"),
    *("scaled_dot_product", "flash_attention", "efficient_attention", "varlen_attn"),
)
PRODUCTS = ("aten::linear", "aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
MARK = "stage "


class ProfiledStatistics(EngineStatistics):
    """Statistics that also profile some steps, with the shapes that their operators get."""

    def __init__(self, first_step: int, steps: int) -> None:
        """Profiles `steps` decoding steps from `first_step` on."""
        super().__init__()
        self.first_step, self.profiled_steps = first_step, steps
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities, record_shapes=True)
        self._running = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As the plain statistics' stage, and marked in the profile."""
        wanted = self.first_step <= self.steps < self.first_step + self.profiled_steps
        if wanted != self._running:
            self._switch()
        with super().stage(name), record_function(MARK + name):
            yield

    def _switch(self) -> None:
        (self._profiler.stop if self._running else self._profiler.start)()
        self._running = not self._running

    def seconds_of_a_step(
        self, prefix_tokens: int, vocab_size: int, device: torch.device
    ) -> dict[str, float]:
        """Mean seconds of a decoding step by part; prefills between the steps are left out."""
        if self._running:
            self._switch()
        measure = "device_time_total" if device.type == "cuda" else "cpu_time_total"
        parts = ("prefix part", "own part", "linear layers", "head", "sampling")
        seconds = dict.fromkeys(parts, 0.0)
        decode = 0.0
        for event in self._profiler.events():
            spent = getattr(event, measure) / 1e6 / self.profiled_steps
            if event.name == MARK + "decode":
                decode += spent
            elif event.name == MARK + "sampling":
                seconds["sampling"] += spent
            elif (part := _part(event, prefix_tokens, vocab_size)) and _is_outermost_of(event):
                seconds[part] += spent
        parts_of_decode = sum(seconds.values()) - seconds["sampling"]
        return seconds | {"element-wise and rest": decode - parts_of_decode}


def _part(event: Any, prefix_tokens: int, vocab_size: int) -> str | None:
    """The part of a step that an operator belongs to, told from its name and its inputs' shapes."""
    sizes = {size for shape in event.input_shapes or [] for size in shape if isinstance(size, int)}
    if any(name in event.name for name in ATTENTION):
        of_prefix = sizes & {prefix_tokens, padded_prefix(prefix_tokens)}
        return "prefix part" if of_prefix else "own part"
    if event.name in PRODUCTS:
        return "head" if vocab_size in sizes else "linear layers"
    return None


def _is_outermost_of(event: Any) -> bool:
    """Whether an operator was called by a decoding step, not by an operator of the same kind."""
    names = ATTENTION + PRODUCTS
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(MARK):
            return parent.name == MARK + "decode"
        if any(name in parent.name for name in names):
            return False
        parent = parent.cpu_parent
    return False
