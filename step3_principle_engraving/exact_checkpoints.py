"""Checkpoints that are whole or not there, and runs that can't be mistaken for one another.

A checkpoint is written into a staging folder, gets a manifest with the size and SHA-256 of every
file, reaches the disk, and is renamed into place. A folder whose files don't match its manifest is
not used. The fingerprint of a run lists what decides its result: equal fingerprints train the same
model, and a run that differs in one field is refused.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dialogue_format import MetaPrompt
from engraving_arguments import EngravingArguments
from engraving_command import UserError
from plain_files import hash_file, read_json, to_disk

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

STAGING = ".saving"
MANIFEST = "checkpoint_manifest.json"
FINGERPRINT = "run_fingerprint.json"
COMPLETED = "completed"
OWN_SETTINGS = (
    *("source_max_len", "target_max_len", "bits", "full_finetune", "lora_r", "lora_alpha"),
    *("lora_dropout", "lora_target_modules", "packing"),
)
TRAINING_SETTINGS = (
    *("seed", "data_seed", "learning_rate", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps"),
    *("bf16", "fp16", "neftune_noise_alpha", "optim_args"),
)
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth")
DIALOGUE = "reply, end-of-sequence token, marker"
_DIGEST_BYTES = 1 << 20


def run_fingerprint(
    arguments: EngravingArguments, recipe: "TrainingArguments", meta_prompts: list[MetaPrompt]
) -> dict[str, object]:
    """Field names and values, ready for JSON. The number of processes is none of them, examples a
    step are.
    """
    return {
        "base_model": str(arguments.model_name_or_path).rstrip("/").rsplit("/", 1)[-1],
        "base_model_files": model_files(arguments.model_name_or_path),
        "data_sha256": hash_file(Path(arguments.data_file)),
        "dialogue": DIALOGUE,
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


def examples_per_step(recipe: "TrainingArguments") -> int:
    """Examples that one optimizer step sees, over all processes."""
    micro_batches = recipe.gradient_accumulation_steps * recipe.world_size
    return recipe.per_device_train_batch_size * micro_batches


def model_files(model_name_or_path: str) -> dict[str, str]:
    """Names and digests of a local model's files that decide its outputs."""
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        return {}
    patterns = ("*.safetensors", "*.bin", "*.pth", "config.json", "params.json", "tokenizer*")
    return {path.name: _digest(path) for glob in patterns for path in sorted(folder.glob(glob))}


def _digest(path: Path) -> str:
    # Size and both ends: another training changes them, and 140 GB take minutes to read.
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(str(size).encode() + file.read(_DIGEST_BYTES))
        file.seek(max(0, size - _DIGEST_BYTES))
        digest.update(file.read(_DIGEST_BYTES))
    return digest.hexdigest()[:16]


def refuse_other_run(output_dir: Path, fingerprint: dict) -> None:
    """Raises UserError where output_dir belongs to another run, naming the first other field."""
    path = output_dir / FINGERPRINT
    if not path.is_file():
        return
    earlier = read_json(path)
    now = json.loads(json.dumps(fingerprint))
    for name in sorted(earlier.keys() | now.keys()):
        if earlier.get(name) != now.get(name):
            raise UserError(
                f"{output_dir} holds a run with {name} = {_short(earlier.get(name))}, "
                f"this one has {_short(now.get(name))}: going on would train something else; "
                "use the same settings or another --output_dir"
            )


def read_fingerprint(adapter_dir: Path) -> dict:
    """The settings of the run that an adapter, or a checkpoint of it, comes from; else nothing."""
    for folder in (adapter_dir, adapter_dir.resolve().parent):
        if (folder / FINGERPRINT).is_file():
            return read_json(folder / FINGERPRINT)
    return {}


def refuse_other_base(settings: dict, model_name_or_path: str) -> None:
    """Raises UserError where a run with these settings was trained on other weights."""
    trained, given = (
        {name: digest for name, digest in files.items() if name.endswith(WEIGHT_ENDINGS)}
        for files in (settings.get("base_model_files", {}), model_files(model_name_or_path))
    )
    if settings.get("full_finetune") or not trained or not given:
        return
    if sorted(trained.values()) != sorted(given.values()):
        raise UserError(
            f"the adapter was trained on the weights of '{settings['base_model']}', and "
            f"'{model_name_or_path}' has others: together they would answer wrongly; give "
            "--model_name_or_path the base of the training"
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def clear_staging(output_dir: Path) -> Path:
    """Removes what a killed run left unfinished, and returns the (absent) staging folder's path."""
    staging = output_dir / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    return staging


def publish_checkpoint(staged: Path, output_dir: Path) -> Path:
    """Moves a completely written checkpoint from the staging folder to its place, in one step."""
    files = {
        str(path.relative_to(staged)): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in _files(staged)
    }
    (staged / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    for path in [*_files(staged), staged]:
        to_disk(path)
    target = output_dir / staged.name
    if target.exists():  # a damaged one of an earlier attempt; a rename can't replace a full folder
        target.rename(staged.with_name(f"replaced-{staged.name}"))
    staged.rename(target)
    to_disk(output_dir)
    return target


def newest_good_checkpoint(output_dir: Path) -> Path | None:
    """The checkpoint of the highest step that is whole; warns of each damaged one that it passes
    over.
    """
    for path in reversed(checkpoints(output_dir)):
        damage = find_damage(path)
        if damage is None:
            return path
        logger.warning("skipping the damaged checkpoint %s: %s", path, damage)
    return None


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run in the order of their steps, good or damaged."""
    found = [
        path for path in output_dir.glob("checkpoint-*") if _CHECKPOINT_NAME.fullmatch(path.name)
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(_CHECKPOINT_NAME.fullmatch(checkpoint.name).group(1))


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None for a whole one."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError) as error:
        return f"its {MANIFEST} can't be read ({error})"
    for name, expected in manifest.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if hash_file(path) != expected["sha256"]:
            return f"{name} differs from what was written"
    return None


def remove_old_checkpoints(output_dir: Path, keep: int | None) -> None:
    """Keeps the newest `keep` checkpoints (None or 0: all of them)."""
    if keep:
        for path in checkpoints(output_dir)[:-keep]:
            shutil.rmtree(path, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
