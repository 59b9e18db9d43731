"""The engine under measurement: timed runs, its memory, and where a decoding step's time goes."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmark_model import text_of
from engine_profile import ProfiledStatistics, marked
from generation_workload import Workload

sys.path.append(f"{Path(__file__).resolve().parents[2]}/step2_principle_driven_self_alignment")

from engine.device import choose_device
from engine.engine import Engine, EngineSettings, Request, SamplingSettings, plan_memory
from engine.generation import EngineStatistics
from engine.memory_plan import MemoryPlan
from user_error import UserError

__all__ = [
    "EngineRun",
    "EngineRuns",
    "MemoryPlan",
    "SamplingSettings",
    "UserError",
    "choose_device",
]

PROFILED_STEPS = 16
PROFILE_FROM = 48  # by then sequences of all ages are alive


@dataclass(frozen=True)
class EngineRun:
    """One timed run; `tokens` are the responses in the prompts' order."""

    seconds: float
    tokens: list[list[int]]
    statistics: EngineStatistics

    @property
    def steps(self) -> int:
        """Decoding steps; a response's first token comes with its prompt and takes none."""
        return self.statistics.steps

    @property
    def slot_steps(self) -> int:
        """Live sequences, summed over the steps."""
        return self.statistics.slot_steps


class EngineRuns:
    """An engine that has computed a workload's prefix."""

    name = "engine"

    def __init__(
        self,
        folder: Path,
        workload: Workload,
        sampling: SamplingSettings,
        *,
        slots: int,
        dtype: str,
        device: str,
    ) -> None:
        self.workload = workload
        settings = EngineSettings(
            model_dir=folder,
            prefix_text=workload.prefix_text,
            slots=slots,
            max_own_tokens=workload.own_tokens,
            dtype=dtype,
            device=device,
            sampling=sampling,
        )
        self.plan = plan_memory(settings)
        self.engine = Engine(settings)
        self.startup = dict(self.engine.statistics.seconds)  # load, prefix

    def run(self, workload: Workload | None = None) -> EngineRun:
        """Answers all prompts; those of another workload with the same prefix, if one is given."""
        workload = workload or self.workload
        self.engine.statistics = EngineStatistics(prefix_tokens=len(workload.prefix))
        started = time.perf_counter()
        tokens = self._generate(workload)
        seconds = time.perf_counter() - started
        assert [len(answer) for answer in tokens] == workload.lengths
        return EngineRun(seconds, tokens, self.engine.statistics)

    def profile_step(self, steps: int) -> dict[str, float]:
        """Seconds of a decoding step by part, from the middle of a run of `steps` steps."""
        first = min(PROFILE_FROM, steps // 2)
        profiled = ProfiledStatistics(first, min(PROFILED_STEPS, steps - first))
        self.engine.statistics = profiled
        decoder = self.engine.decoder
        decoder.graphs = None  # a graph's kernels belong to no operator
        with marked(decoder.model.operations):
            self._generate(self.workload)
        return profiled.seconds_of_a_step(self.engine.tokenizer.vocab_size, self.engine.device)

    def _generate(self, workload: Workload) -> list[list[int]]:
        requests = [
            Request(str(row), " " + text_of(prompt), max_new_tokens=length)
            for row, (prompt, length) in enumerate(
                zip(workload.prompts, workload.lengths, strict=True)
            )
        ]
        tokens: list[list[int]] = [[] for _ in requests]
        for completion in self.engine.generate(requests):
            tokens[int(completion.request.id)] = list(completion.output_ids)
        return tokens
