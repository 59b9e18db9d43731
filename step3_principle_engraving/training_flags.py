"""The flags of transformers' TrainingArguments: their names without the import, which of them do
nothing here, and the object that Trainer wants.
"""

import ast
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engraving_command import UserError, is_first_process

if TYPE_CHECKING:
    from transformers import TrainingArguments

_OF_THE_HUB = (
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
    *("hub_always_push", "hub_revision"),
)
_OF_METRICS = (
    *("metric_for_best_model", "greater_is_better"),
    *("include_for_metrics", "batch_eval_metrics"),
)
_WITHOUT_EFFECT = (
    *("do_train", "do_eval", "do_predict", "remove_unused_columns", "label_names", "local_rank"),
    *("length_column_name", "prediction_loss_only", "eval_accumulation_steps", "use_cache"),
    *("eval_do_concat_batches", "eval_use_gather_object", "bf16_full_eval", "fp16_full_eval"),
    *("average_tokens_across_devices", "dataloader_persistent_workers", "dataloader_in_order"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
)
UNSUPPORTED = {
    "dataloader_drop_last": "every example is trained on",
    "auto_find_batch_size": "the batch plan is part of what a resume must repeat",
    "train_sampling_strategy": "the batch plan deals examples of like length already",
    "ignore_data_skip": "a resumed run goes on with the data that it has not seen yet",
    "save_only_model": "a checkpoint without the optimizer can't be resumed exactly",
    "enable_jit_checkpoint": "SIGTERM saves and stops already",
    "save_on_each_node": "one folder holds the run, and its first process writes it",
    "resume_from_checkpoint": "--resume auto goes on from the newest good checkpoint",
    "load_best_model_at_end": "the checkpoints are for resuming; the last step is the result",
    "label_smoothing_factor": "the loss is plain cross-entropy",
    "use_liger_kernel": "the loss is computed here",
    "deepspeed": "use --fsdp for models that don't fit one GPU",
    "parallelism_config": "processes share the examples of a step; --fsdp shards the weights",
    "per_device_eval_batch_size": "held-out micro-batches are as large as those of the training",
    **dict.fromkeys(_OF_THE_HUB, "export_model.py writes the folder to upload"),
    **dict.fromkeys(_OF_METRICS, "the measures are the held-out loss and whether replies end"),
    **dict.fromkeys(_WITHOUT_EFFECT, "it has no effect here"),
}


@cache
def training_flags() -> dict[str, str]:
    """Name and help of each flag, read from the library's source: importing it takes seconds."""
    package = importlib.util.find_spec("transformers")
    if package is None:
        raise ModuleNotFoundError("no module transformers; pip install -r requirements.txt")
    source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    return {
        field.target.id: _help_of(field)
        for field in classes["TrainingArguments"].body
        if isinstance(field, ast.AnnAssign)
    }


def _help_of(field: ast.AnnAssign) -> str:
    for keyword in getattr(field.value, "keywords", []):
        if keyword.arg == "metadata":
            try:
                return ast.literal_eval(keyword.value)["help"]
            except (ValueError, KeyError):  # put together when the library is imported
                break
    return "see transformers' documentation"


def training_arguments(
    recipe: Mapping[str, object], further: Mapping[str, Sequence[str]], device: str
) -> "TrainingArguments":
    """What Trainer wants: the recipe, and flags of the library's own as they were given.

    `device` is auto, cuda or cpu. Starts the process group where several processes run. Raises
    UserError for values that the library refuses, and where the device isn't there.
    """
    import torch
    from engraved_model import choose_device
    from transformers import HfArgumentParser, TrainingArguments

    _complete_process_variables()
    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)

    def refuse(message: str) -> None:
        raise UserError(message, said_elsewhere=not is_first_process())

    parser.error = refuse
    words = [word for name, texts in further.items() for word in (f"--{name}", *texts)]
    given = vars(parser.parse_args(words))
    on_cpu = choose_device("cpu" if recipe["use_cpu"] else device) == "cpu"
    values = {**given, **recipe, "use_cpu": on_cpu, "remove_unused_columns": False}
    if values["bf16"] is None:
        values["bf16"] = not on_cpu and not given["fp16"] and torch.cuda.is_bf16_supported()
    if values["disable_tqdm"] is None:
        values["disable_tqdm"] = not sys.stderr.isatty()
    if values["activation_checkpointing"] is None and values["gradient_checkpointing"] is None:
        values["activation_checkpointing"] = not on_cpu
    if given["fsdp"] and on_cpu:
        refuse("--fsdp needs CUDA: on CPU accelerate would shard nothing")
    try:
        arguments = TrainingArguments(**values)
    except ValueError as error:
        refuse(str(error).splitlines()[0])
    if arguments.n_gpu > 1:
        raise UserError(
            f"one process sees {arguments.n_gpu} GPUs; start one process a GPU with torchrun, "
            "or choose one with CUDA_VISIBLE_DEVICES"
        )
    return arguments


def _complete_process_variables() -> None:
    # Launchers that start one process a GPU by hand set RANK and WORLD_SIZE; accelerate looks at
    # LOCAL_RANK.
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(
                f"the environment variable {name} is '{os.environ[name]}', not a number; unset it, "
                "or start several processes with torchrun"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", os.environ.get("RANK", "0"))
