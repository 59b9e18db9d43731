"""What decides the result of a fine-tuning: equal fingerprints train the same model."""

from pathlib import Path

from dialogue_format import MetaPrompt
from engraved_model import weight_files
from engraving_arguments import EngravingArguments, RecipeArguments
from training_records import hash_file

OWN_SETTINGS = (
    "source_max_len",
    "target_max_len",
    "bits",
    "full_finetune",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "packing",
    "loss_weighting",
)
TRAINING_SETTINGS = (
    "seed",
    "data_seed",
    "learning_rate",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "neftune_noise_alpha",
    "optim_args",
)


def run_fingerprint(
    arguments: EngravingArguments, recipe: RecipeArguments, meta_prompts: list[MetaPrompt]
) -> dict[str, object]:
    """Field names and values, ready for JSON. The number of processes is none of them, examples a
    step are.
    """
    return {
        "base_model": str(arguments.model_name_or_path).rstrip("/").rsplit("/", 1)[-1],
        "base_model_files": weight_files(arguments.model_name_or_path),
        "data_sha256": hash_file(Path(arguments.data_file)),
        "meta_prompts": {prompt.name: prompt.system for prompt in meta_prompts},
        "examples_per_step": examples_per_step(recipe),
        "micro_batch_size": recipe.per_device_train_batch_size,
        "optim": str(getattr(recipe.optim, "value", recipe.optim)),
        "lr_scheduler_type": str(
            getattr(recipe.lr_scheduler_type, "value", recipe.lr_scheduler_type)
        ),
        **{name: getattr(arguments, name) for name in OWN_SETTINGS},
        **{name: getattr(recipe, name) for name in TRAINING_SETTINGS},
    }


def examples_per_step(recipe: RecipeArguments) -> int:
    """Examples that one optimizer step sees, over all processes."""
    micro_batches = recipe.gradient_accumulation_steps * recipe.world_size
    return recipe.per_device_train_batch_size * micro_batches
