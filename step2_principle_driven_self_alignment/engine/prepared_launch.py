"""What to load, what it comes to and what can't work: all that is known before a weight is read."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from prompt_format import SELF_ALIGN, PromptFormat
from user_error import UserError

from engine.device import (
    DTYPES,
    available_memory,
    choose_device,
    choose_dtype,
    prefill_tokens,
    runs_flash_attention,
)
from engine.head_layout import plan_heads
from engine.launch_ranks import LaunchRanks
from engine.memory_plan import MemoryPlan, gpu_table
from engine.memory_plan import plan as plan_rank
from engine.model_config import (
    ModelConfig,
    load_model_config,
    refuse_lfs_pointer,
    weight_files,
)
from engine.sampler import SamplingSettings
from engine.tokenizer import Tokenizer, load_tokenizer

GPUS_OF_A_NODE = (1, 2, 4, 8)
SHORTEN = "shorten the prompt or lower --max_own_tokens"
LLAMA_1 = (
    "by its params.json this is LLaMA 1, which can't hold the prompt: take LLaMA 2 or a later base "
    'model (if it is LLaMA 2, put "max_seq_len": 4096 into params.json)'
)


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
class PreparedLaunch:
    """What a folder and the settings come to, before any weight is read."""

    config: ModelConfig
    tokenizer: Tokenizer
    prefix: list[int]
    device: torch.device
    dtype: torch.dtype
    ranks: LaunchRanks
    plan: MemoryPlan


def prepare(settings: EngineSettings) -> PreparedLaunch:
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
    plan = plan_rank(
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
    return PreparedLaunch(config, tokenizer, prefix, device, dtype, ranks, plan)


def plan_memory(settings: EngineSettings) -> MemoryPlan:
    """The memory that `Engine(settings)` will take on each rank; reads no weights.

    Raises the UserErrors of `Engine(settings)`, but for memory: `check()` of the plan does that.
    """
    return prepare(settings).plan


def describe_gpus(settings: EngineSettings) -> str:
    """On which GPUs the model would fit, spread over how many; reads no weights, needs no GPU."""
    launch = prepare(settings)
    config = launch.config
    dtype = DTYPES.get(settings.dtype) or DTYPES.get(config.torch_dtype, torch.bfloat16)

    def plan_for(degree: int, available: int) -> MemoryPlan:
        return plan_rank(
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
    return f"on GPUs, in {name}:\n{gpu_table(plan_for, degrees)}"


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
