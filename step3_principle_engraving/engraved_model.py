"""Loading: tokenizer, base model (4-bit or in its own precision), adapter on top, merged export."""

import logging
import sys
from pathlib import Path

import torch
from engraving_command import DTYPE_NAMES, UserError
from plain_files import refuse_lfs_pointer

# On import, it recommends a package that doesn't fit the pinned versions.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from peft import (  # noqa: E402
    LoraConfig,
    PeftModel,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from safetensors import SafetensorError  # noqa: E402
from torch import nn  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

ADAPTER_CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}


def choose_device(wanted: str) -> str:
    """`cuda` or `cpu`. Raises UserError rather than train on the CPU of a machine that has GPUs."""
    if wanted == "cpu" or torch.cuda.is_available():
        return "cpu" if wanted == "cpu" else "cuda"
    reason = "torch sees no GPU"
    if torch.version.cuda and sorted(Path("/dev").glob("nvidia[0-9]*")):
        reason = (
            f"this machine has a GPU, but torch's CUDA {torch.version.cuda} can't use it (an older "
            "driver? nvidia-smi names it)"
        )
    elif wanted == "auto":
        return "cpu"
    raise UserError(f"{reason}; --device cpu trains on the CPU")


def load_base_model(
    model_name_or_path: str,
    *,
    bits: int = 16,
    dtype: torch.dtype | None = None,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The base model on `device`; `auto` spreads it over all GPUs. `bits=4` quantises it to NF4.

    `dtype` is that of the weights, or for 4 bits that of the arithmetic; None takes the model's
    own.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()
    for path in sorted(Path(model_name_or_path).glob("*.safetensors")):
        refuse_lfs_pointer(path)
    try:
        config = AutoConfig.from_pretrained(model_name_or_path)
        dtype = dtype or config.dtype or torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            model_name_or_path,
            dtype=dtype,
            attn_implementation=attention,
            device_map="auto" if device == "auto" else {"": device},
            quantization_config=nf4_config(dtype) if bits == 4 else None,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(_loading_advice(model_name_or_path, error)) from error
    if bits == 4 and model.device.type == "cpu":
        _keep_weights_as_quantised(model)
    if attention != "sdpa" and not model._supports_attention_backend:
        raise UserError(
            f"{type(model).__name__} takes no registered attention; use --packing false"
        )
    return model


def _keep_weights_as_quantised(model: PreTrainedModel) -> None:
    # On CPUs with AVX512-BF16, evaluation would repack the weights with their scales rounded to
    # bfloat16 and keep them so, and fail on widths that are no multiple of 32.
    for module in model.modules():
        if module.__class__.__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def add_adapter(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    bits: int,
    checkpointing: bool,
    targets: str = ALL_LINEAR,
) -> PeftModel:
    """Puts a trainable fp32 adapter on linear layers; the base is frozen.

    `targets`: the layers' names with commas between them, or ALL_LINEAR for all but the head.
    Raises UserError for a name that no layer has.
    """
    if bits == 4:
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    elif checkpointing:
        model.enable_input_require_grads()
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_layers(model, targets),
        task_type="CAUSAL_LM",
    )
    # bfloat16 would round most updates of a learning rate of 1e-4 away: PEFT casts adapters to
    # fp32.
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def _layers(model: PreTrainedModel, targets: str) -> str | list[str]:
    if targets == ALL_LINEAR:
        return targets
    names, known = targets.split(","), set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            known.add(name.rpartition(".")[2])
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"--lora_target_modules: this model has no layer {unknown[0]!r}; it has "
            + ", ".join(sorted(known))
        )
    return names


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are (4-bit ones counted in full)."""
    trained = total = 0
    for parameter in model.parameters():
        packed = 2 if parameter.__class__.__name__ == "Params4bit" else 1  # two weights a byte
        total += parameter.numel() * packed
        trained += parameter.numel() if parameter.requires_grad else 0
    return trained, total


def load_engraved_model(
    base: str,
    engraved_dir: Path,
    *,
    bits: int,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel | PeftModel:
    """What fine-tuning left in `engraved_dir`: base + adapter, or the fully trained model."""
    if not is_adapter(engraved_dir):
        return load_base_model(str(engraved_dir), dtype=dtype, device=device)
    model = load_base_model(base, bits=bits, dtype=dtype, device=device)
    return PeftModel.from_pretrained(model, engraved_dir, autocast_adapter_dtype=True)


def merged_model(
    base: str,
    engraved_dir: Path,
    *,
    bits: int,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """The engraved model without adapter layers, in `dtype` or the base's own.

    An adapter trained on a 4-bit base belongs to the *dequantised* weights: merged into the
    original or into 4-bit weights, it answers differently.
    """
    own = dtype or AutoConfig.from_pretrained(base).dtype or torch.float32
    if not is_adapter(engraved_dir):
        return load_base_model(str(engraved_dir), dtype=own)
    model = load_base_model(base, bits=bits, dtype=own)
    if bits == 4:
        model = model.dequantize().to(own)
    return PeftModel.from_pretrained(model, engraved_dir).merge_and_unload(safe_merge=True)


def is_adapter(folder: Path) -> bool:
    """True for an adapter, False for a whole model; UserError for neither."""
    if (folder / ADAPTER_CONFIG).is_file():
        return True
    if (folder / "config.json").is_file():
        return False
    raise UserError(
        f"no adapter or model in '{folder}'; give the --output_dir of a finished fine-tuning"
    )


def _loading_advice(name: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"the model '{name}' can't be loaded: {first_line} "
        "(--model_name_or_path takes a local folder; without a network, only that)"
    )
