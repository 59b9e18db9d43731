"""The ways of generating that are compared: step 2's engine, and others on the same weights.

Each has computed the shared prefix before it is timed.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from generation_workload import Workload
from random_model import text_of
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation import ContinuousBatchingConfig, StoppingCriteria

sys.path.append(f"{Path(__file__).resolve().parents[2]}/step2_principle_driven_self_alignment")

from engine.engine import Engine, EngineSettings, Request, SamplingSettings, plan_memory
from engine.generation import EngineStatistics

VLLM_WORKER = Path(__file__).with_name("vllm_worker.py")
PAGE_TOKENS = {"cpu": 32, "cuda": 256}  # flash attention's block table takes multiples of 256
TIMEOUT = 600.0  # seconds without a response
STOP_SECONDS = 10.0  # for a background thread to end
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
LARGEST_TRIM_THRESHOLD, LARGEST_MMAP_THRESHOLD = 2**31 - 1, 2**25  # bytes


@dataclass(frozen=True)
class Run:
    """One timed run; `tokens` are the responses, cut to their lengths, in the prompts' order."""

    seconds: float
    steps: int
    tokens: list[list[int]]
    stages: dict[str, float] = field(default_factory=dict)  # the engine's seconds


@dataclass(frozen=True)
class Setting:
    """What all ways are given."""

    folder: Path
    dtype: torch.dtype
    device: torch.device
    slots: int
    temperature: float
    top_p: float
    seed: int

    @property
    def dtype_name(self) -> str:
        """As in a config.json."""
        return str(self.dtype).removeprefix("torch.")

    def of_transformers(self, **others: object) -> GenerationConfig:
        """transformers' settings for the engine's sampling: temperature and nucleus, no more."""
        sampling = {"do_sample": False}
        if self.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
            sampling["top_k"] = 0
        return GenerationConfig(pad_token_id=0, **sampling, **others)


class Way(ABC):
    """A way of answering the prompts of a workload."""

    def __init__(self, setting: Setting, workload: Workload) -> None:
        self.setting, self.workload = setting, workload

    @abstractmethod
    def run(self) -> Run:
        """Answers all prompts, to the end of the last response."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Gives back what the way holds."""


class EngineWay(Way):
    """Step 2's engine."""

    def __init__(self, setting: Setting, workload: Workload) -> None:
        super().__init__(setting, workload)
        settings = EngineSettings(
            model_dir=setting.folder,
            prefix_text=workload.prefix_text,
            slots=setting.slots,
            max_own_tokens=workload.own_tokens,
            dtype=setting.dtype_name,
            device=setting.device.type,
            start_check=False,  # random weights predict nothing
            sampling=SamplingSettings(
                setting.temperature, setting.top_p, setting.seed, max(workload.lengths)
            ),
        )
        self.planned_bytes = plan_memory(settings).total
        self.engine = Engine(settings)
        self.startup = dict(self.engine.statistics.seconds)  # load, prefix

    def run(self) -> Run:
        rows = zip(self.workload.prompts, self.workload.lengths, strict=True)
        requests = [
            Request(str(row), " " + text_of(prompt), max_new_tokens=length)
            for row, (prompt, length) in enumerate(rows)
        ]
        tokens: list[list[int]] = [[] for _ in requests]
        self.engine.statistics = EngineStatistics(prefix_tokens=len(self.workload.prefix))
        started = time.perf_counter()
        for completion in self.engine.generate(requests):
            tokens[int(completion.request.id)] = list(completion.output_ids)
        seconds = time.perf_counter() - started
        return Run(seconds, self.engine.statistics.steps, tokens, self.engine.statistics.seconds)

    @property
    def peak_bytes(self) -> int:
        """The most memory that this process, or its GPU, has held up to the last run."""
        return self.engine.statistics.peak_memory_bytes


class TransformersWay(Way):
    """A way that runs transformers' model with its fastest attention that needs no package."""

    def __init__(self, setting: Setting, workload: Workload) -> None:
        super().__init__(setting, workload)
        if setting.device.type == "cpu":
            keep_freed_memory()
        model = AutoModelForCausalLM.from_pretrained(
            setting.folder, dtype=setting.dtype, attn_implementation="sdpa"
        )
        self.model: PreTrainedModel = model.to(setting.device).eval()


def keep_freed_memory() -> None:
    """Has malloc keep what is freed, as PyTorch does on CUDA; glibc only.

    Left to itself it gives large pieces back, or not, by the luck of what else it holds. A way
    that copies the prefix at each step then takes up to three times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, LARGEST_TRIM_THRESHOLD)
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)


class EachAtItsLength(StoppingCriteria):
    """Ends each row of a batch at its own length; the batch ends with the last of them."""

    def __init__(self, start: int, lengths: torch.Tensor) -> None:
        """lengths: int64 [rows], new tokens behind the first `start`."""
        self.ends = start + lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


class StaticBatches(TransformersWay):
    """`generate()` over batches of prompts, each batch to the end of its longest response.

    The prefix is computed once and repeated for the rows of each batch. Prompts are sorted by
    length, so that a batch holds little padding; responses' lengths are not known beforehand.
    """

    def __init__(self, setting: Setting, workload: Workload) -> None:
        super().__init__(setting, workload)
        with torch.inference_mode():
            prefix = torch.tensor([workload.prefix], device=self.model.device)
            cache = self.model(prefix, use_cache=True, logits_to_keep=1).past_key_values
        self.prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def run(self) -> Run:
        order = sorted(
            range(len(self.workload.prompts)), key=lambda i: len(self.workload.prompts[i])
        )
        tokens: list[list[int]] = [[] for _ in order]
        steps = 0
        started = time.perf_counter()
        for start in range(0, len(order), self.setting.slots):
            rows = order[start : start + self.setting.slots]
            answers = self._generate(rows)
            steps += answers.shape[1]
            for row, answer in zip(rows, answers.tolist(), strict=True):
                tokens[row] = answer[: self.workload.lengths[row]]
        return Run(time.perf_counter() - started, steps, tokens)

    def _generate(self, rows: list[int]) -> torch.Tensor:
        """Answers to some prompts, int64 [rows, longest]."""
        prompts = [self.workload.prompts[row] for row in rows]
        lengths = torch.tensor([self.workload.lengths[row] for row in rows])
        longest, prefix = max(map(len, prompts)), self.workload.prefix
        padding = [longest - len(prompt) for prompt in prompts]
        device = self.model.device
        ids = [prefix + [0] * p + own for p, own in zip(padding, prompts, strict=True)]
        input_ids = torch.tensor(ids, device=device)
        attention_mask = torch.ones_like(input_ids)
        for row, width in enumerate(padding):
            attention_mask[row, len(prefix) :][:width] = 0
        output = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            past_key_values=self._cache(len(rows)),
            generation_config=self.setting.of_transformers(max_new_tokens=int(lengths.max())),
            stopping_criteria=[EachAtItsLength(input_ids.shape[1], lengths.to(device))],
        )
        return output[:, input_ids.shape[1] :]

    def _cache(self, rows: int) -> Cache:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


class CopiedPrefixLayer(DynamicLayer):
    """Keys and values of the rows' own parts; each step copies the prefix in front of each row."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: [1, kv_heads, prefix, head_dim]."""
        super().__init__()
        self.prefix_keys, self.prefix_values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states)
        rows = (len(keys), -1, -1, -1)
        return (
            torch.cat((self.prefix_keys.expand(rows), keys), dim=-2),
            torch.cat((self.prefix_values.expand(rows), values), dim=-2),
        )

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[-2] + super().get_seq_length()


class FirstImplementation(StaticBatches):
    """The algorithm of the method's first implementation.

    Attention written out in matrix products, a copy of the prefix for every sequence, layer and
    step, and no end before the longest response of the batch.
    """

    def __init__(self, setting: Setting, workload: Workload) -> None:
        super().__init__(setting, workload)
        self.model.set_attn_implementation("eager")

    def _cache(self, rows: int) -> Cache:
        return Cache(layers=[CopiedPrefixLayer(keys, values) for keys, values in self.prefix])


class ContinuousBatching(TransformersWay):
    """transformers' continuous batching with a paged cache; full pages of the prefix are shared."""

    def run(self) -> Run:
        # A manager for each run: its cache must not hold the prompts of the run before, and while
        # its thread lives, that thread's OpenMP threads take a fifth of the other ways' speed.
        with self.model.continuous_batching_context_manager(
            generation_config=self.setting.of_transformers(max_new_tokens=1),
            continuous_batching_config=self._batching(),
            timeout=STOP_SECONDS,
        ) as manager:
            # It computes the prefix, whose pages it keeps.
            manager.add_request(self.workload.prefix, max_new_tokens=1)
            self._next_result(manager)
            return self._run(manager)

    def _run(self, manager: Any) -> Run:
        workload = self.workload
        tokens: list[list[int]] = [[] for _ in workload.prompts]
        first_step = manager.current_batch
        started = time.perf_counter()
        rows = {}
        for row, (own, length) in enumerate(zip(workload.prompts, workload.lengths, strict=True)):
            rows[manager.add_request(workload.prefix + own, max_new_tokens=length)] = row
        for _ in rows:
            answer = self._next_result(manager)
            tokens[rows[answer.request_id]] = answer.generated_tokens
        return Run(time.perf_counter() - started, manager.current_batch - first_step, tokens)

    def _next_result(self, manager: Any) -> Any:
        answer = manager.get_result(timeout=TIMEOUT)
        if answer is None or answer.error is not None:
            status = manager.background_thread_status
            raise RuntimeError(f"{answer.error if answer else status.fatal_error or 'no response'}")
        return answer

    def _batching(self) -> ContinuousBatchingConfig:
        page, slots = PAGE_TOKENS[self.model.device.type], self.setting.slots
        longest = len(self.workload.prefix) + self.workload.own_tokens
        return ContinuousBatchingConfig(
            page_size=page,
            num_blocks=(slots + 1) * (-(-longest // page) + 1),
            max_batch_tokens=max(slots, 512),
            max_requests_per_batch=slots,
        )


class VllmWay(Way):
    """vLLM with its prefix cache, in a process and an environment of its own."""

    def __init__(self, setting: Setting, workload: Workload, python: Path) -> None:
        """Starts the worker and waits until it has loaded the model; RuntimeError if it can't."""
        super().__init__(setting, workload)
        self.worker = subprocess.Popen(
            [str(python), str(VLLM_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=vllm_environment(python),
        )
        try:
            self._ask(
                model=str(setting.folder),
                dtype=setting.dtype_name,
                bytes_per_number=setting.dtype.itemsize,
                slots=setting.slots,
                prefix=workload.prefix,
                prompts=workload.prompts,
                lengths=workload.lengths,
            )
        except RuntimeError:
            self.close()
            raise

    def run(self) -> Run:
        return Run(**self._ask(temperature=self.setting.temperature, top_p=self.setting.top_p))

    def _ask(self, **message: Any) -> dict[str, Any]:
        """The worker's answer; RuntimeError with the reason where it has none."""
        with suppress(BrokenPipeError):  # if it has ended, the missing answer says so
            self.worker.stdin.write(json.dumps(message) + "\n")
            self.worker.stdin.flush()
        line = self.worker.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM's process ended with exit code {self.worker.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        with suppress(BrokenPipeError):  # of what could not be written before
            self.worker.stdin.close()
        try:
            self.worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()
        self.worker.stdout.close()


def vllm_environment(python: Path) -> dict[str, str]:
    """The settings under which vLLM was fastest on CPU, with as many threads as the other ways."""
    settings = {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        # One process: a second one for the scheduler would share the cores with the model's.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # vLLM asks for Intel's OpenMP, which its package brings, and loads it only if told here.
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    if openmp.is_file():
        settings["LD_PRELOAD"] = str(openmp)
    return os.environ | settings


WAYS: dict[str, Callable[..., Way]] = {
    "engine": EngineWay,
    "static": StaticBatches,
    "continuous": ContinuousBatching,
    "first": FirstImplementation,
    "vllm": VllmWay,
}
