"""The engine: one long prefix, many short prompts, each answered once.

    engine = Engine(EngineSettings(model_dir, prefix_text))
    for completion in engine.generate(requests):
        ...

Every rank of a tensor-parallel group calls `generate` with the same requests and gets the same
completions in the same order.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from engine import start_check
from engine.checkpoint import open_checkpoint
from engine.decoder import Decoder
from engine.device import choose_threads
from engine.generation import Completion, EngineStatistics, Generation, GiveUp
from engine.prepared_launch import (
    EngineSettings,
    PreparedLaunch,
    describe_gpus,
    plan_memory,
    prepare,
)
from engine.sampler import SamplingSettings
from engine.scheduler import Request, Scheduler

__all__ = [
    "Completion",
    "Engine",
    "EngineSettings",
    "Request",
    "SamplingSettings",
    "describe_gpus",
    "plan_memory",
]

SMALLEST_ADMISSION = 8  # prompts that are prefilled together
AGREE_EVERY = 8  # steps between two looks at whether to drain

logger = logging.getLogger(__name__)


class Engine:
    """Loads a model and computes the prefix; then answers requests.

    `ranks` tells where this process stands: its group of the launch, and whether it leads it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Raises UserError before any weight is read, where it can."""
        began = time.perf_counter()
        launch = prepare(settings)
        launch.plan.check()
        self.settings = settings
        self.tokenizer, self.device, self.ranks = launch.tokenizer, launch.device, launch.ranks
        self.ranks.join(self.device)
        self.slots = min(slots for (slots,) in self.ranks.tell_group([launch.plan.slots]))
        on_gpu = self.device.type == "cuda"
        self.statistics = EngineStatistics(prefix_tokens=len(launch.prefix), asynchronous=on_gpu)
        self.statistics.seconds["checks"] = time.perf_counter() - began
        self.eos_ids = self.tokenizer.eos_ids | set(launch.config.eos_token_ids)
        self._anchor = settings.prefix_text.rpartition("\n")[2] or settings.prefix_text[-1:]
        logger.info("%s", launch.plan)
        self._say_where(launch)
        with self.statistics.stage("load"):
            self.decoder = Decoder.load(
                open_checkpoint(Path(settings.model_dir)),
                launch.config,
                self.ranks,
                launch.dtype,
                self.device,
                prefix_tokens=len(launch.prefix),
                slots=self.slots,
                own_tokens=settings.max_own_tokens,
            )
            self.ranks.wait_until_loaded()
        with self.statistics.stage("prefix"):
            thorough = on_gpu if settings.start_check is None else settings.start_check
            check = start_check.start(
                self.decoder, launch.prefix, self.ranks, settings.sampling, thorough=thorough
            )
        self.statistics.start_check = asdict(check)
        logger.info("started in %s", format_stages(self.statistics.seconds))

    def _say_where(self, launch: PreparedLaunch) -> None:
        if self.device.type == "cuda":
            place = torch.cuda.get_device_name(self.device)
        else:
            choose_threads()
            place = f"the CPU (threads: {torch.get_num_threads()})"
        name = str(launch.dtype).removeprefix("torch.")
        chosen = self.settings.dtype == "auto" and launch.dtype == torch.bfloat16
        hint = ", natively (exact, but slower: --dtype float32)" if chosen else ""
        logger.info("computing on %s in %s%s, %d slots", place, name, hint, self.slots)

    def generate(
        self,
        requests: Iterable[Request],
        *,
        give_up: GiveUp | None = None,
        should_drain: Callable[[], bool] | None = None,
    ) -> Iterator[Completion]:
        """Answers every request once, and yields each as it finishes.

        `give_up(request, text so far)` tells that a response isn't worth going on with. Once the
        group leader's `should_drain()` is true, the iterator ends; what was alive is dropped.
        RuntimeError where the ranks of a group no longer sample the same tokens.
        """
        too_long: list[Completion] = []
        generation = Generation(
            self.decoder,
            self.tokenizer,
            self.settings.sampling,
            self.eos_ids,
            self.statistics,
            give_up,
            self.settings.prompt_format,
        )
        scheduler = Scheduler(
            generation.waiting(requests, self._anchor, too_long),
            self.slots,
            max(SMALLEST_ADMISSION, self.slots // 8),
            self.decoder.prefill_tokens,
        )
        for step in itertools.count():
            has_work = scheduler.has_work
            yield from too_long
            too_long.clear()
            if not has_work:
                break
            if step % AGREE_EVERY == 0:
                wish = should_drain is not None and should_drain()
                if self.ranks.agree(wish, (len(scheduler.live), generation.checksum)):
                    break
            yield from generation.step(scheduler)
        self.statistics.note_peak_memory(self.device)


def format_stages(seconds: dict[str, float]) -> str:
    """The sum, and the parts: "3.1 s: checks 0.4, load 2.0, prefix 0.7"."""
    parts = ", ".join(f"{stage} {spent:.1f}" for stage, spent in seconds.items())
    return f"{sum(seconds.values()):.1f} s: {parts}"
