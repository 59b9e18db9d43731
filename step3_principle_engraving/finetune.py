"""Step 3, engrave: fine-tune the base model on prompts and replies, without the principles.

    python finetune.py --model_name_or_path BASE --data_file merged.json --output_dir engraved
    torchrun --nproc_per_node 8 finetune.py …          # one process a GPU

Reads the merged training data and the meta-prompts. Writes into the output folder the adapter (or,
with --full_finetune, the model), checkpoints, training_summary.json, training_report.html and, last
of all, the file `completed`. Started again, it goes on from the newest good checkpoint and ends in
the same weights as without the interruption; SIGTERM, SIGUSR1 and SIGUSR2 save and stop with exit
code 75. Defaults are the published recipe; all flags of transformers' TrainingArguments are
understood, see --help.
"""
# ruff: noqa: E402  the flags are looked at before the imports that take seconds

import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import exact_checkpoints
from dialogue_format import load_meta_prompts
from engraving_arguments import EngravingArguments, parse_arguments
from engraving_command import EXIT_DRAINED, UserError, run_command
from plain_files import read_json, saving, write_json
from training_flags import training_arguments
from training_records import read_training_records

DESCRIPTION = __doc__.splitlines()[0]
if __name__ == "__main__":
    parse_arguments(DESCRIPTION)

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from base_tokenizer import load_tokenizer
from engraved_model import (
    add_adapter,
    load_base_model,
    trainable_parameters,
)
from engraving_data import EngravingData
from exact_trainer import Drain, ExactTrainer
from reply_measures import greedy_replies
from segment_attention import NAME as SEGMENT_ATTENTION
from training_report import write_training_report
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

logger = logging.getLogger("finetune")

Result = TypeVar("Result")

HELD_OUT_BEFORE = "held_out_before.json"
SUMMARY = "training_summary.json"


def main() -> int:
    drain = Drain()
    arguments, settings, further = parse_arguments(DESCRIPTION)
    recipe = training_arguments(settings.values(arguments.output_dir), further, arguments.device)
    arguments = with_bits(arguments, recipe)
    start_logging(recipe)
    output_dir = Path(recipe.output_dir)
    meta_prompts = together(lambda: load_meta_prompts(arguments.meta_prompt_pattern))
    fingerprint = exact_checkpoints.run_fingerprint(arguments, recipe, meta_prompts)
    if agree(recipe, lambda: is_completed(output_dir, fingerprint, arguments.resume)):
        logger.info("%s is completed: nothing to do (%s)", output_dir, output_dir / SUMMARY)
        return 0

    tokenizer = together(lambda: load_tokenizer(arguments.model_name_or_path))
    data, held_out = together(lambda: load_data(arguments, tokenizer, meta_prompts))
    trainer = together(lambda: build_trainer(arguments, recipe, tokenizer, data, held_out, drain))
    agree(recipe, lambda: claim_folder(output_dir, fingerprint))
    describe_run(trainer, data, held_out)

    before = measure_before(arguments, trainer, tokenizer, held_out)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=trainer.agreed_checkpoint())
    if drain.drained:
        logger.warning("stopped and saved; the same command goes on from there")
        return EXIT_DRAINED
    seconds = time.perf_counter() - start
    after = measure(arguments, trainer, tokenizer, held_out)

    save_result(trainer)
    if trainer.args.should_save:
        summary = summarise(trainer, data, fingerprint, seconds, before, after)
        finish(output_dir, trainer, summary)
    trainer.accelerator.wait_for_everyone()
    return 0


def with_bits(arguments: EngravingArguments, recipe: TrainingArguments) -> EngravingArguments:
    """4 bits where nothing else was asked for, the GPU does it, and the weights stay frozen."""
    whole = arguments.full_finetune or recipe.fsdp or recipe.device.type == "cpu"
    return dataclasses.replace(arguments, bits=arguments.bits or (16 if whole else 4))


def start_logging(recipe: TrainingArguments) -> None:
    """INFO from the first process, warnings from the others, all to stderr."""
    level = logging.INFO if recipe.process_index == 0 else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    # PEFT asks for an attribute under its older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    for name in ("finetune", "exact_checkpoints", "exact_trainer", "training_records"):
        logging.getLogger(name).setLevel(level)


def together(act: Callable[[], Result]) -> Result:
    """What `act` gives on this process; an error of any ends all, and one process says it."""
    result, error = None, None
    try:
        result = act()
    except (UserError, OSError) as reason:
        error = reason
    for process, found in enumerate(gather_object([error])):
        if found is not None:
            own = process == PartialState().process_index
            raise error if own else UserError(str(found), said_elsewhere=True)
    return result


def agree(recipe: TrainingArguments, decide: Callable[[], Result]) -> Result:
    """What the first process decides, on all processes."""
    decision = together(lambda: decide() if recipe.process_index == 0 else None)
    return broadcast_object_list([decision])[0]


def is_completed(output_dir: Path, fingerprint: dict, resume: str) -> bool:
    """Whether the run is completed already; UserError if the folder holds another one."""
    exact_checkpoints.refuse_other_run(output_dir, fingerprint)
    if (output_dir / exact_checkpoints.COMPLETED).is_file():
        if any(output_dir.glob("*.safetensors")):
            return True
        logger.warning("%s says that it is completed, but its model is gone", output_dir)
    if resume == "never" and exact_checkpoints.checkpoints(output_dir):
        raise UserError(
            f"{output_dir} holds checkpoints already; --resume never needs another --output_dir"
        )
    return False


def claim_folder(output_dir: Path, fingerprint: dict) -> None:
    """From now on the folder belongs to this run, whose data and model have been read."""
    output_dir.mkdir(parents=True, exist_ok=True)
    exact_checkpoints.clear_staging(output_dir)
    (output_dir / exact_checkpoints.COMPLETED).unlink(missing_ok=True)
    write_json(output_dir / exact_checkpoints.FINGERPRINT, fingerprint)


def load_data(
    arguments: EngravingArguments, tokenizer: PreTrainedTokenizerBase, meta_prompts: list
) -> tuple[EngravingData, EngravingData | None]:
    """Training examples, and held-out ones where a file is given."""
    limits = (arguments.source_max_len, arguments.target_max_len)
    data, held_out = (
        None
        if name is None
        else EngravingData(read_training_records(Path(name)), tokenizer, meta_prompts, *limits)
        for name in (arguments.data_file, arguments.eval_data_file)
    )
    return data, held_out


def build_trainer(
    arguments: EngravingArguments,
    recipe: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    data: EngravingData,
    held_out: EngravingData | None,
    drain: Drain,
) -> ExactTrainer:
    """The base model, the adapter on it unless all weights are trained, and the trainer around."""
    set_seed(recipe.seed)
    model = load_base_model(
        arguments.model_name_or_path,
        bits=arguments.bits,
        dtype=dtype_of_weights(arguments, recipe),
        attention=SEGMENT_ATTENTION if arguments.packing else "sdpa",
        device="cpu" if recipe.fsdp else recipe.device,  # the shards go to their GPUs later
    )
    if not arguments.full_finetune:
        model = add_adapter(
            model,
            rank=arguments.lora_r,
            alpha=arguments.lora_alpha,
            dropout=arguments.lora_dropout,
            bits=arguments.bits,
            checkpointing=bool(recipe.activation_checkpointing),
            targets=arguments.lora_target_modules,
        )
    return ExactTrainer(
        model=model,
        args=recipe,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[drain],
        packing=arguments.packing,
    )


def dtype_of_weights(
    arguments: EngravingArguments, recipe: TrainingArguments
) -> torch.dtype | None:
    """Trained weights stay fp32, where small updates don't vanish; a frozen base keeps its own
    (None), or computes in the precision of the training where its weights are 4-bit.
    """
    if arguments.full_finetune:
        return torch.float32
    if arguments.bits == 16:
        return None
    return torch.bfloat16 if recipe.bf16 else torch.float16 if recipe.fp16 else torch.float32


def describe_run(
    trainer: ExactTrainer, data: EngravingData, held_out: EngravingData | None
) -> None:
    recipe = trainer.args
    trained, total = trainable_parameters(trainer.model)
    logger.info("data: %s", data.counts)
    if held_out is not None:
        logger.info("held out: %s", held_out.counts)
    logger.info("training %s of %s parameters on %s", f"{trained:,}", f"{total:,}", recipe.device)
    logger.info(
        "%d examples a step: %d in a micro-batch, %d micro-batches, %d processes",
        exact_checkpoints.examples_per_step(recipe),
        recipe.per_device_train_batch_size,
        recipe.gradient_accumulation_steps,
        recipe.world_size,
    )


def measure_before(
    arguments: EngravingArguments,
    trainer: ExactTrainer,
    tokenizer: PreTrainedTokenizerBase,
    held_out: EngravingData | None,
) -> dict[str, float]:
    """The base model's measures; a resumed run takes them from its first start."""
    path = Path(trainer.args.output_dir) / HELD_OUT_BEFORE
    known = agree(trainer.args, lambda: read_json(path) if path.is_file() else None)
    if known is not None:
        return known
    before = measure(arguments, trainer, tokenizer, held_out)
    if trainer.args.should_save and before:
        write_json(path, before)
    return before


def measure(
    arguments: EngravingArguments,
    trainer: ExactTrainer,
    tokenizer: PreTrainedTokenizerBase,
    held_out: EngravingData | None,
) -> dict[str, float]:
    """Held-out loss, and the share of greedy replies to held-out prompts that end by themselves.

    Nothing for a sharded model: it runs only inside the training, where --eval_strategy measures.
    """
    if held_out is None or trainer.is_fsdp_enabled:
        return {}
    measures = {"loss": trainer.evaluate()["eval_loss"]}
    prompts = held_out.prompts()[: arguments.eval_replies]
    if prompts:
        args = trainer.args
        own = prompts[args.process_index :: args.world_size]
        replies = greedy_replies(trainer.model, tokenizer, own, arguments.eval_reply_tokens)
        ended = torch.tensor(sum(reply.ended for reply in replies), device=args.device)
        total = trainer.accelerator.reduce(ended, reduction="sum").item()
        measures |= {"replies": len(prompts), "replies_that_end": total / len(prompts)}
    return measures


def save_result(trainer: ExactTrainer) -> None:
    """The adapter or model into output_dir: written beside, then moved file by file."""
    output_dir = Path(trainer.args.output_dir)
    result = output_dir / exact_checkpoints.STAGING / "result"
    with saving(result):
        trainer.save_model(str(result))
    if trainer.args.should_save:
        for path in sorted(result.iterdir()):
            path.replace(output_dir / path.name)
        exact_checkpoints.clear_staging(output_dir)


def summarise(
    trainer: ExactTrainer,
    data: EngravingData,
    fingerprint: dict,
    seconds: float,
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, object]:
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0, 2),
        "seconds": round(seconds, 1),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "held_out_before": before,
        "held_out_after": after,
        "data": dataclasses.asdict(data.counts),
        "settings": fingerprint,
    }


def finish(output_dir: Path, trainer: ExactTrainer, summary: dict) -> None:
    """Summary, report, and the file that says that all is there."""
    write_json(output_dir / SUMMARY, summary)
    write_training_report(
        output_dir / "training_report.html", output_dir.name, trainer.state.log_history, summary
    )
    write_json(output_dir / exact_checkpoints.COMPLETED, {"steps": summary["steps"]})
    logger.info(
        "%d steps in %.0f s, last loss %s", *(summary[k] for k in ("steps", "seconds", "last_loss"))
    )
    for moment in ("before", "after"):
        measures = summary[f"held_out_{moment}"]
        if measures:
            logger.info(
                "held out, %s: %s", moment, ", ".join(f"{k} {v:.4g}" for k, v in measures.items())
            )
    logger.info("wrote %s", output_dir)


def run() -> int:
    code = main()
    if torch.distributed.is_initialized():  # gloo's threads may abort a process that exits so
        torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    run_command(run)
