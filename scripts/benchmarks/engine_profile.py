"""Where the time of the engine's decoding steps goes, by kind of operator."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.append(f"{Path(__file__).resolve().parents[2]}/step2_principle_driven_self_alignment")

from engine.generation import EngineStatistics
from engine.operations import Operations

STAGE, OPERATION = "stage ", "operation "  # marks in the profile
LINEAR = ("aten::linear", "mkldnn::_linear_pointwise")
PARTS = {
    "aten::bmm": "prefix part",
    f"{OPERATION}unnormalised_softmax": "prefix part",
    f"{OPERATION}own_attention": "own part",
    f"{STAGE}sampling": "sampling",
    **dict.fromkeys(LINEAR, "linear layers"),
}


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
        with super().stage(name), record_function(STAGE + name):
            yield

    def _switch(self) -> None:
        (self._profiler.stop if self._running else self._profiler.start)()
        self._running = not self._running

    def seconds_of_a_step(self, vocab_size: int, device: torch.device) -> dict[str, float]:
        """Mean seconds of a decoding step by part; prefills between the steps are left out."""
        if self._running:
            self._switch()
        measure = "device_time_total" if device.type == "cuda" else "cpu_time_total"
        parts = ("prefix part", "own part", "linear layers", "head", "sampling")
        seconds = dict.fromkeys(parts, 0.0)
        decode = 0.0
        for event in self._profiler.events():
            if event.device_type != DeviceType.CPU:
                continue  # a kernel, whose time its operator has too
            spent = getattr(event, measure) / 1e6 / self.profiled_steps
            if event.name == f"{STAGE}decode":
                decode += spent
            elif event.name in PARTS and _is_outermost_of_a_step(event):
                seconds[_part(event, vocab_size)] += spent
        parts_of_decode = sum(seconds.values()) - seconds["sampling"]
        return seconds | {"element-wise and rest": decode - parts_of_decode}


@contextmanager
def marked(operations: Operations) -> Iterator[None]:
    """Within it, operations that PyTorch's profiler can't see for itself show up in a profile."""
    names = [name.removeprefix(OPERATION) for name in PARTS if name.startswith(OPERATION)]
    for name in names:
        setattr(operations, name, _recorded(OPERATION + name, getattr(operations, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(operations, name)


def _recorded(name: str, operation: Callable) -> Callable:
    def run(*arguments: Any) -> Any:
        with record_function(name):
            return operation(*arguments)

    return run


def _part(event: Any, vocab_size: int) -> str:
    """The part of a step that an operator belongs to."""
    sizes = [size for shape in event.input_shapes or [] for size in shape]
    return "head" if event.name in LINEAR and vocab_size in sizes else PARTS[event.name]


def _is_outermost_of_a_step(event: Any) -> bool:
    """Whether a decoding step called an operator, not another operator that is counted."""
    parent = event
    while not parent.name.startswith(STAGE):
        parent = parent.cpu_parent
        if parent is None or (parent.name in PARTS and not parent.name.startswith(STAGE)):
            return False
    return parent.name in (f"{STAGE}decode", f"{STAGE}sampling")
