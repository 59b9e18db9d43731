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
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from prompt_format import SELF_ALIGN, PromptFormat
from user_error import UserError

from engine import memory_plan, start_check
from engine.checkpoint import open_checkpoint
from engine.decoder import Decoder
from engine.device import (
    DTYPES,
    available_memory,
    choose_device,
    choose_dtype,
    choose_threads,
    prefill_tokens,
    runs_flash_attention,
)
from engine.generation import Completion, EngineStatistics, Generation, GiveUp
from engine.head_layout import plan_heads
from engine.launch_ranks import LaunchRanks
from engine.memory_plan import MemoryPlan
from engine.model_config import (
    ModelConfig,
    load_model_config,
    refuse_lfs_pointer,
    weight_files,
)
from engine.sampler import SamplingSettings
from engine.scheduler import Request, Scheduler
from engine.tokenizer import Tokenizer, load_tokenizer

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
GPUS_OF_A_NODE = (1, 2, 4, 8)
SHORTEN = "shorten the prompt or lower --max_own_tokens"
LLAMA_1 = (
    "by its params.json this is LLaMA 1, which can't hold the prompt: take LLaMA 2 or a later base "
    'model (if it is LLaMA 2, put "max_seq_len": 4096 into params.json)'
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """What to load and how much room to give it.

    `max_own_tokens` bounds a prompt's own part and its response together. `dtype` auto is the
    checkpoint's own on a GPU and, for 16 bits, on a CPU that multiplies bfloat16; else float32. In
    float32 on a CPU a response is the same token by token.
    `slots` None: 64 on a CPU, as many as fit (up to 512) on a GPU. `start_check` None: on a GPU.
    """

    model_dir: Path
    prefix_text: str
    tokenizer_path: Path | None = None
    slots: int | None = None
    max_own_tokens: int = 768
    dtype: str = "auto"
    device: str = "auto"
    tensor_parallel: int | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    prompt_format: PromptFormat = SELF_ALIGN
    start_check: bool | None = None

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise UserError(f"--slots is {self.slots}; give at least 1")
        if self.max_own_tokens <= self.sampling.max_new_tokens:
            raise UserError(
                f"--max_own_tokens {self.max_own_tokens} leaves no room for a prompt beside "
                f"--max_new_tokens {self.sampling.max_new_tokens}; raise the one or lower the other"
            )


@dataclass(frozen=True)
class _Launch:
    """What a folder and the settings come to, before any weight is read."""

    config: ModelConfig
    tokenizer: Tokenizer
    prefix: list[int]
    device: torch.device
    dtype: torch.dtype
    ranks: LaunchRanks
    plan: MemoryPlan


def _prepare(settings: EngineSettings) -> _Launch:
    """Raises UserError for all that can be known beforehand, but for too little memory."""
    folder = Path(settings.model_dir)
    config = load_model_config(folder)
    tokenizer = load_tokenizer(Path(settings.tokenizer_path or folder))
    after_bos = settings.prompt_format.after_bos
    prefix = tokenizer.encode_prefix(settings.prefix_text, after_bos=after_bos)
    for file in weight_files(folder):
        refuse_lfs_pointer(file)
    _check_sizes(settings, config, len(prefix))
    _check_vocabulary(tokenizer, config)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, config.torch_dtype, device)
    ranks = LaunchRanks.from_environment(settings.tensor_parallel)
    plan = memory_plan.plan(
        config,
        plan_heads(config.query_heads, config.kv_heads, ranks.tensor_parallel),
        dtype,
        prefix_tokens=len(prefix),
        slots=settings.slots,
        own_tokens=settings.max_own_tokens,
        prefill_tokens=prefill_tokens(device),
        available=available_memory(device),
        on_gpu=device.type == "cuda",
        flash=runs_flash_attention(device, dtype, config.head_dim),
    )
    return _Launch(config, tokenizer, prefix, device, dtype, ranks, plan)


def plan_memory(settings: EngineSettings) -> MemoryPlan:
    """The memory that `Engine(settings)` will take on each rank; reads no weights.

    Raises the UserErrors of `Engine(settings)`, but for memory: `check()` of the plan does that.
    """
    return _prepare(settings).plan


def describe_gpus(settings: EngineSettings) -> str:
    """On which GPUs the model would fit, spread over how many; reads no weights, needs no GPU."""
    launch = _prepare(settings)
    config = launch.config
    dtype = DTYPES.get(settings.dtype) or DTYPES.get(config.torch_dtype, torch.bfloat16)

    def plan_for(degree: int, available: int) -> MemoryPlan:
        return memory_plan.plan(
            config,
            plan_heads(config.query_heads, config.kv_heads, degree),
            dtype,
            prefix_tokens=len(launch.prefix),
            slots=None,
            own_tokens=settings.max_own_tokens,
            prefill_tokens=prefill_tokens(torch.device("cuda")),
            available=available,
            on_gpu=True,
            flash=dtype != torch.float32,
        )

    degrees = sorted({*GPUS_OF_A_NODE, launch.ranks.tensor_parallel})
    name = str(dtype).removeprefix("torch.")
    return f"on GPUs, in {name}:\n{memory_plan.describe_gpus(plan_for, degrees)}"


class Engine:
    """Loads a model and computes the prefix; then answers requests.

    `ranks` tells where this process stands: its group of the launch, and whether it leads it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Raises UserError before any weight is read, where it can."""
        began = time.perf_counter()
        launch = _prepare(settings)
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

    def _say_where(self, launch: _Launch) -> None:
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


def _check_sizes(settings: EngineSettings, config: ModelConfig, prefix_tokens: int) -> None:
    """Raises UserError where the prefix and an own part are longer than the model can see."""
    tokens = prefix_tokens + settings.max_own_tokens
    for name, limit in (
        ("max_position_embeddings", config.max_positions),
        ("sliding_window", config.sliding_window),
    ):
        if limit is not None and tokens > limit:
            raise UserError(
                f"{settings.model_dir}: the prompt's {prefix_tokens} tokens and --max_own_tokens "
                f"{settings.max_own_tokens} come to {tokens}, and the model's {name} is {limit}; "
                f"{LLAMA_1 if config.family == 'LLaMA 1' else SHORTEN}"
            )


def _check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}; "
            "give the model's own tokenizer with --tokenizer_path"
        )
