"""The engine: one long prefix, many short prompts, each answered once.

    engine = Engine(EngineSettings(model_dir, prefix_text))
    for completion in engine.generate(requests):
        ...

Every rank of a tensor-parallel group calls `generate` with the same requests and gets the same
completions in the same order.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prompt_format import SELF_ALIGN, PromptFormat
from user_error import UserError

from engine import memory_plan
from engine.checkpoint import open_checkpoint
from engine.decoder import Decoder
from engine.device import available_memory, choose_device, choose_dtype
from engine.generation import Completion, EngineStatistics, Generation, GiveUp
from engine.head_layout import plan_heads
from engine.launch_ranks import LaunchRanks
from engine.memory_plan import PREFILL_TOKENS, MemoryPlan
from engine.model_config import ModelConfig, load_model_config
from engine.sampler import SamplingSettings
from engine.scheduler import Request, Scheduler
from engine.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Completion", "Engine", "EngineSettings", "Request", "SamplingSettings", "plan_memory"]

ADMISSION_SIZE = 8
AGREE_EVERY = 8  # steps between two looks at whether to drain


@dataclass(frozen=True)
class EngineSettings:
    """What to load and how much room to give it.

    `max_own_tokens` bounds a prompt's own part and its response together. `dtype` auto is the
    checkpoint's own on CUDA and float32 on CPU, where a response is then the same token by token.
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
    prompt_format: PromptFormat = SELF_ALIGN

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UserError(f"--slots is {self.slots}; give at least 1")
        if self.max_own_tokens <= self.sampling.max_new_tokens:
            raise UserError(
                f"--max_own_tokens {self.max_own_tokens} leaves no room for a prompt beside "
                f"--max_new_tokens {self.sampling.max_new_tokens}; raise the one or lower the other"
            )


def plan_memory(settings: EngineSettings) -> MemoryPlan:
    """The memory that `Engine(settings)` will take on each rank; reads no weights."""
    config = load_model_config(Path(settings.model_dir))
    tokenizer = load_tokenizer(Path(settings.tokenizer_path or settings.model_dir))
    return _plan(settings, config, len(tokenizer.encode_prefix(settings.prefix_text)))


def _plan(settings: EngineSettings, config: ModelConfig, prefix_tokens: int) -> MemoryPlan:
    ranks = LaunchRanks.from_environment(settings.tensor_parallel)
    device = choose_device(settings.device)
    return memory_plan.plan(
        config,
        plan_heads(config.query_heads, config.kv_heads, ranks.tensor_parallel),
        choose_dtype(settings.dtype, config.torch_dtype, device),
        prefix_tokens=prefix_tokens,
        slots=settings.slots,
        own_tokens=settings.max_own_tokens,
        available=available_memory(device),
    )


class Engine:
    """Loads a model and computes the prefix; then answers requests.

    `ranks` tells where this process stands: its group of the launch, and whether it leads it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Raises UserError before any weight is read, where it can."""
        folder = Path(settings.model_dir)
        config = load_model_config(folder)
        self.tokenizer = load_tokenizer(Path(settings.tokenizer_path or folder))
        prefix = self.tokenizer.encode_prefix(settings.prefix_text)
        _check_sizes(settings, config, len(prefix))
        _check_vocabulary(self.tokenizer, config)
        _plan(settings, config, len(prefix)).check()
        self.settings = settings
        self.statistics = EngineStatistics(prefix_tokens=len(prefix))
        self.device = choose_device(settings.device)
        self.ranks = LaunchRanks.from_environment(settings.tensor_parallel)
        self.ranks.join(self.device)
        self.eos_ids = self.tokenizer.eos_ids | set(config.eos_token_ids)
        self._anchor = settings.prefix_text.rpartition("\n")[2] or settings.prefix_text[-1:]
        with self.statistics.stage("load"):
            self.decoder = Decoder.load(
                open_checkpoint(folder),
                config,
                self.ranks,
                choose_dtype(settings.dtype, config.torch_dtype, self.device),
                self.device,
                prefix_tokens=len(prefix),
                slots=settings.slots,
                own_tokens=settings.max_own_tokens,
            )
            self.ranks.wait_until_loaded()
        with self.statistics.stage("prefix"):
            self.decoder.prefill_prefix(prefix)

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
            self.settings.slots,
            ADMISSION_SIZE,
            PREFILL_TOKENS,
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
                "shorten the prompt or lower --max_own_tokens"
            )


def _check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}; "
            "give the model's own tokenizer with --tokenizer_path"
        )
