"""The flags of fine-tuning: our own, and those of TrainingArguments with the recipe as defaults."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from dialogue_format import DEFAULT_META_PROMPTS
from transformers import HfArgumentParser, TrainingArguments

UNSUPPORTED = {
    "dataloader_drop_last": "every example is trained on",
    "auto_find_batch_size": "the batch plan is part of what a resume must repeat",
    "label_smoothing_factor": "the loss is plain cross-entropy",
    "load_best_model_at_end": "the checkpoints are for resuming; the last step is the result",
    "deepspeed": "use --fsdp for models that don't fit one GPU",
    "resume_from_checkpoint": "--resume auto goes on from the newest good checkpoint",
}


def setting(default: object, help_text: str) -> object:
    """A dataclass field whose help appears in --help."""
    return field(default=default, metadata={"help": help_text})


@dataclass
class EngravingArguments:
    """What is engraved into what."""

    model_name_or_path: str = field(metadata={"help": "Folder (or Hub name) of the base model."})
    data_file: str = field(metadata={"help": "Merged training data: .json, .jsonl or .parquet."})
    eval_data_file: str | None = setting(
        None, "Held-out records: loss and reply endings are measured before and after."
    )
    meta_prompt_pattern: str = setting(
        DEFAULT_META_PROMPTS, "Glob of the short system prompts, rotated by example_id."
    )
    source_max_len: int = setting(512, "Prompt tokens; longer prompts lose their beginning.")
    target_max_len: int = setting(
        512, "Reply tokens; longer replies lose their end, and the marker."
    )
    bits: int | None = setting(
        None, "4: NF4 base, 16: base in its own precision. Default: 4 with CUDA, 16 without."
    )
    full_finetune: bool = setting(False, "Train all weights instead of an adapter.")
    lora_r: int = setting(64, "Rank of the adapter.")
    lora_alpha: float = setting(16, "Scale of the adapter: alpha / rank.")
    lora_dropout: float = setting(0.0, "Dropout in front of the adapter.")
    packing: bool = setting(True, "Lay examples end to end; false pads them instead.")
    loss_weighting: str = setting(
        "tokens", "'tokens': mean over all tokens of a step; 'micro_batches': mean of means."
    )
    resume: str = setting(
        "auto", "'auto' goes on from the newest good checkpoint; 'never' wants a fresh output_dir."
    )
    eval_replies: int = setting(
        16, "Held-out prompts that are answered to see whether replies end."
    )
    eval_reply_tokens: int = setting(256, "Tokens after which such a reply counts as endless.")
    trust_remote_code: bool = setting(False, "Run code that lies in the model folder.")

    def __post_init__(self) -> None:
        if self.bits is None:
            self.bits = 4 if torch.cuda.is_available() and not self.full_finetune else 16
        _check_choice("bits", self.bits, (4, 16))
        _check_choice("loss_weighting", self.loss_weighting, ("tokens", "micro_batches"))
        _check_choice("resume", self.resume, ("auto", "never"))
        for name, least in (("source_max_len", 2), ("target_max_len", 1), ("lora_r", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")
        if self.full_finetune and self.bits == 4:
            raise ValueError("--full_finetune needs --bits 16: 4-bit weights can't be trained")


@dataclass
class RecipeArguments(TrainingArguments):
    """TrainingArguments with the published recipe, and `warmup_ratio`, which it no longer has."""

    learning_rate: float = setting(1e-4, "Peak learning rate.")
    lr_scheduler_type: str = setting("cosine", "Learning rate schedule.")
    warmup_ratio: float = setting(
        0.03, "Share of all steps that warm up; --warmup_steps overrules it."
    )
    num_train_epochs: float = setting(1.0, "Passes over the data.")
    per_device_train_batch_size: int = setting(4, "Examples in a micro-batch of one process.")
    gradient_accumulation_steps: int = setting(4, "Micro-batches of one process in a step.")
    max_grad_norm: float = setting(0.3, "Gradients are clipped to this norm.")
    bf16: bool = setting(
        torch.cuda.is_available() and torch.cuda.is_bf16_supported(), "bfloat16 autocast."
    )
    use_cpu: bool = setting(not torch.cuda.is_available(), "Train on the CPU.")
    logging_steps: float = setting(1, "Steps between two lines of the log.")
    save_steps: float = setting(50, "Steps between two checkpoints.")
    save_total_limit: int | None = setting(2, "Checkpoints to keep.")
    remove_unused_columns: bool = setting(False, "Has no effect here.")
    disable_tqdm: bool | None = setting(
        not sys.stderr.isatty(), "Log lines instead of a bar; the default outside a terminal."
    )
    ddp_find_unused_parameters: bool | None = setting(False, "All trained weights get gradients.")

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"--warmup_ratio {self.warmup_ratio} must be at least 0 and below 1")
        if self.warmup_steps == 0:
            self.warmup_steps = self.warmup_ratio
        for name in UNSUPPORTED:
            if getattr(self, name):
                raise ValueError(f"--{name} is not supported: {UNSUPPORTED[name]}")
        if self.fsdp and not torch.cuda.is_available():
            raise ValueError("--fsdp needs CUDA: on CPU accelerate would shard nothing")
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs; start one process a GPU with torchrun, "
                "or choose one with CUDA_VISIBLE_DEVICES"
            )


def parse_arguments(
    argv: list[str] | None = None, description: str | None = None
) -> tuple[EngravingArguments, RecipeArguments]:
    """Both sets of flags. Exits with code 2 on an unknown flag or a bad value, before anything
    else.

    Raises FileNotFoundError where a named file is missing.
    """
    parser = HfArgumentParser(
        (EngravingArguments, RecipeArguments), description=description, allow_abbrev=False
    )
    given = parser.parse_args(argv)  # strict, where HfArgumentParser first builds everything
    if given.output_dir is None:
        parser.error("the following arguments are required: --output_dir")
    _check_files(given.model_name_or_path, given.data_file, given.eval_data_file)
    _complete_process_variables()
    try:
        arguments, recipe = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
        if recipe.fsdp and arguments.bits == 4:
            raise ValueError("--fsdp needs --bits 16: a 4-bit base stays whole on every GPU")
    except ValueError as error:
        parser.error(str(error))
    return arguments, recipe


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"--{name} {value} must be one of {', '.join(map(str, choices))}")


def _check_files(model: str, *data_files: str | None) -> None:
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local and not (Path(model) / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in '{model}': --model_name_or_path takes a folder with a config.json, "
            "or a Hub name"
        )
    for data_file in data_files:
        if data_file is not None and not Path(data_file).is_file():
            raise FileNotFoundError(
                f"no file '{data_file}'; --data_file and --eval_data_file take local files"
            )


def _complete_process_variables() -> None:
    # Launchers that start one process a GPU by hand set RANK and WORLD_SIZE; accelerate looks at
    # LOCAL_RANK.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", os.environ.get("RANK", "0"))
