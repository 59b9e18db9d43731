"""The engine: one long prefix, many short prompts, each answered once.

    engine = Engine(EngineSettings(model_dir, prefix_text))
    for completion in engine.generate(requests):
        ...

Every rank of a tensor-parallel group calls `generate` with the same requests and gets the same
completions in the same order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine import memory_plan
from engine.checkpoint import open_checkpoint
from engine.decoder import Decoder
from engine.head_layout import plan_heads
from engine.memory_plan import MemoryPlan, available_memory
from engine.model_config import ModelConfig, load_model_config
from engine.sampler import SamplingSettings
from engine.scheduler import Request
from engine.stage_clock import EngineStatistics
from engine.tensor_parallel import agree, choose_device, join_group, tensor_parallel_degree
from engine.tokenizer import load_tokenizer

__all__ = ["Completion", "Engine", "EngineSettings", "Request", "SamplingSettings", "plan_memory"]

ADMISSION_SIZE = 8
GIVE_UP_EVERY = 8  # tokens between two looks at whether a response can still be kept
DRAIN_EVERY = 8  # steps between two looks at whether to drain
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

GiveUp = Callable[[Request, str], bool]


@dataclass(frozen=True)
class EngineSettings:
    """What to load and how much room to give it.

    `max_own_tokens` bounds a prompt's own part and its response together. `dtype` auto is the
    checkpoint's own on CUDA, and float32 on CPU unless the CPU multiplies bfloat16 in hardware.
    """

    model_dir: Path
    prefix_text: str
    tokenizer_path: Path | None = None
    slots: int = 64
    max_own_tokens: int = 768
    dtype: str = "auto"
    device: str = "auto"
    tensor_parallel: int | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"--slots is {self.slots}; give at least 1")
        if self.max_own_tokens <= self.sampling.max_new_tokens:
            raise ValueError(
                f"--max_own_tokens {self.max_own_tokens} leaves no room for a prompt beside "
                f"--max_new_tokens {self.sampling.max_new_tokens}; raise the one or lower the other"
            )
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype}; choose auto, {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Completion:
    """An answered request.

    `finish_reason`: `stop` (the user's next turn began), `eos`, `length`, `abandoned` (given up),
    or `too_long` (the prompt left no room for a response).
    """

    request: Request
    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int


def plan_memory(settings: EngineSettings) -> MemoryPlan:
    """The memory that `Engine(settings)` will take on each rank; reads no weights."""
    config = load_model_config(Path(settings.model_dir))
    tokenizer = load_tokenizer(Path(settings.tokenizer_path or settings.model_dir))
    return _plan(settings, config, len(tokenizer.encode_prefix(settings.prefix_text)))


def _plan(settings: EngineSettings, config: ModelConfig, prefix_tokens: int) -> MemoryPlan:
    ranks = tensor_parallel_degree(settings.tensor_parallel)
    device = choose_device(settings.device)
    return memory_plan.plan(
        config,
        plan_heads(config.query_heads, config.kv_heads, ranks),
        choose_dtype(settings.dtype, config, device),
        prefix_tokens=prefix_tokens,
        slots=settings.slots,
        own_tokens=settings.max_own_tokens + 1,
        available=available_memory(device, ranks),
    )


def choose_dtype(name: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """The data type for weights and keys/values."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return DTYPES.get(config.torch_dtype, torch.bfloat16)
    return torch.float32


class Engine:
    """Loads a model and computes the prefix; then answers requests."""

    def __init__(self, settings: EngineSettings) -> None:
        """Raises ValueError or FileNotFoundError before any weight is read, where it can."""
        folder = Path(settings.model_dir)
        config = load_model_config(folder)
        self.tokenizer = load_tokenizer(Path(settings.tokenizer_path or folder))
        prefix = self.tokenizer.encode_prefix(settings.prefix_text)
        _check_sizes(settings, config, self.tokenizer, len(prefix))
        _plan(settings, config, len(prefix)).check()
        self.settings = settings
        self.statistics = EngineStatistics(prefix_tokens=len(prefix))
        self.device = choose_device(settings.device)
        self.ranks = join_group(settings.tensor_parallel, settings.device)
        self.eos_ids = self.tokenizer.eos_ids | set(config.eos_token_ids)
        self._anchor = settings.prefix_text.rpartition("\n")[2]
        with self.statistics.stage("load"):
            self._decoder = Decoder.load(
                open_checkpoint(folder),
                config,
                self.ranks,
                choose_dtype(settings.dtype, config, self.device),
                self.device,
                prefix_tokens=len(prefix),
                slots=settings.slots,
                own_tokens=settings.max_own_tokens + 1,
            )
        with self.statistics.stage("prefix"):
            self._decoder.fill_prefix(prefix)

    @property
    def is_group_leader(self) -> bool:
        """Whether this rank speaks for its tensor-parallel group."""
        return self.ranks.is_group_leader

    @property
    def group_index(self) -> int:
        """Which of the launch's data-parallel groups this rank belongs to."""
        return self.ranks.group_index

    @property
    def group_count(self) -> int:
        """How many data-parallel groups the launch has."""
        return self.ranks.group_count

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
        """
        run = Run(self, give_up)
        while run.scheduler_has_work(requests):
            if run.steps % DRAIN_EVERY == 0 and should_drain is not None:
                if agree(should_drain(), self.ranks, self.device):
                    break
            yield from run.step()
        self.statistics.note_peak_memory(self.device)
