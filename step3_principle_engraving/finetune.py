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

import dataclasses
import logging
import sys
import time
import warnings
from pathlib import Path

import exact_checkpoints
import torch
from accelerate.utils import broadcast_object_list
from dialogue_format import load_meta_prompts
from engraved_model import (
    add_adapter,
    load_base_model,
    load_tokenizer,
    read_json,
    trainable_parameters,
)
from engraving_arguments import EngravingArguments, RecipeArguments, parse_arguments
from engraving_data import EngravingData
from exact_trainer import Drain, ExactTrainer
from reply_measures import greedy_replies
from run_fingerprint import examples_per_step, run_fingerprint
from segment_attention import NAME as SEGMENT_ATTENTION
from training_records import read_training_records
from training_report import write_training_report
from transformers import PreTrainedTokenizerBase, set_seed

logger = logging.getLogger("finetune")

EXIT_DRAINED = 75
HELD_OUT_BEFORE = "held_out_before.json"
SUMMARY = "training_summary.json"


def main() -> int:
    drain = Drain()
    arguments, recipe = parse_arguments(description=__doc__.splitlines()[0])
    start_logging(recipe)
    output_dir = Path(recipe.output_dir)
    meta_prompts = load_meta_prompts(arguments.meta_prompt_pattern)
    fingerprint = run_fingerprint(arguments, recipe, meta_prompts)
    if agree(recipe, lambda: is_completed(output_dir, fingerprint, arguments.resume)):
        logger.info("%s is completed: nothing to do (%s)", output_dir, output_dir / SUMMARY)
        return 0

    tokenizer = load_tokenizer(arguments.model_name_or_path, arguments.trust_remote_code)
    data, held_out = load_data(arguments, tokenizer, meta_prompts)
    trainer = build_trainer(arguments, recipe, tokenizer, data, held_out, drain)
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


def start_logging(recipe: RecipeArguments) -> None:
    """INFO from the first process, warnings from the others, all to stderr."""
    level = logging.INFO if recipe.process_index == 0 else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    # PEFT asks for an attribute under its older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    for name in ("finetune", "exact_checkpoints", "exact_trainer", "training_records"):
        logging.getLogger(name).setLevel(level)


def agree(recipe: RecipeArguments, decide: object) -> object:
    """What the first process decides, on all processes; its error becomes everybody's."""
    decision, error = None, None
    if recipe.process_index == 0:
        try:
            decision = decide()
        except (ValueError, OSError) as reason:
            error = str(reason)
    decision, error = broadcast_object_list([decision, error])
    if error is not None:
        raise ValueError(error)
    return decision


def is_completed(output_dir: Path, fingerprint: dict, resume: str) -> bool:
    """Whether the run is completed already; ValueError if the folder holds another one."""
    exact_checkpoints.refuse_other_run(output_dir, fingerprint)
    if (output_dir / exact_checkpoints.COMPLETED).is_file():
        return True
    if resume == "never" and exact_checkpoints.checkpoints(output_dir):
        raise ValueError(
            f"{output_dir} holds checkpoints already; --resume never needs another --output_dir"
        )
    return False


def claim_folder(output_dir: Path, fingerprint: dict) -> None:
    """From now on the folder belongs to this run, whose data and model have been read."""
    output_dir.mkdir(parents=True, exist_ok=True)
    exact_checkpoints.clear_staging(output_dir)
    exact_checkpoints.write_json(output_dir / exact_checkpoints.FINGERPRINT, fingerprint)


def load_data(
    arguments: EngravingArguments, tokenizer: PreTrainedTokenizerBase, meta_prompts: list
) -> tuple[EngravingData, EngravingData | None]:
    """Training examples, and held-out ones where a file is given."""
    limits = (arguments.source_max_len, arguments.target_max_len)
    data = EngravingData(
        read_training_records(Path(arguments.data_file)), tokenizer, meta_prompts, *limits
    )
    if arguments.eval_data_file is None:
        return data, None
    records = read_training_records(Path(arguments.eval_data_file))
    return data, EngravingData(records, tokenizer, meta_prompts, *limits)


def build_trainer(
    arguments: EngravingArguments,
    recipe: RecipeArguments,
    tokenizer: PreTrainedTokenizerBase,
    data: EngravingData,
    held_out: EngravingData | None,
    drain: Drain,
) -> ExactTrainer:
    """The base model, the adapter on it unless all weights are trained, and the trainer around."""
    set_seed(recipe.seed)
    arithmetic = torch.bfloat16 if recipe.bf16 else torch.float16 if recipe.fp16 else torch.float32
    model = load_base_model(
        arguments.model_name_or_path,
        bits=arguments.bits,
        # Trained weights stay fp32, where small updates don't vanish; a frozen base keeps its own
        # precision.
        dtype=torch.float32
        if arguments.full_finetune
        else arithmetic
        if arguments.bits == 4
        else None,
        attention=SEGMENT_ATTENTION if arguments.packing else "sdpa",
        device="cpu" if recipe.fsdp else recipe.device,  # the shards go to their GPUs later
        trust_remote_code=arguments.trust_remote_code,
    )
    if not arguments.full_finetune:
        model = add_adapter(
            model,
            rank=arguments.lora_r,
            alpha=arguments.lora_alpha,
            dropout=arguments.lora_dropout,
            bits=arguments.bits,
            checkpointing=bool(recipe.activation_checkpointing),
        )
    return ExactTrainer(
        model=model,
        args=recipe,
        train_dataset=data,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[drain],
        packing=arguments.packing,
        loss_weighting=arguments.loss_weighting,
    )


def describe_run(
    trainer: ExactTrainer, data: EngravingData, held_out: EngravingData | None
) -> None:
    recipe = trainer.args
    trained, total = trainable_parameters(trainer.model)
    logger.info("data: %s", data.counts)
    if held_out is not None:
        logger.info("held out: %s", held_out.counts)
    logger.info("training %s of %s parameters", f"{trained:,}", f"{total:,}")
    logger.info(
        "%d examples a step: %d in a micro-batch, %d micro-batches, %d processes",
        examples_per_step(recipe),
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
        exact_checkpoints.write_json(path, before)
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
    exact_checkpoints.write_json(output_dir / SUMMARY, summary)
    table = {name: value for name, value in summary.items() if not isinstance(value, dict)}
    for name in ("held_out_before", "held_out_after", "data", "settings"):
        table |= {f"{name}: {key}": value for key, value in summary[name].items()}
    write_training_report(output_dir / "training_report.html", trainer.state.log_history, table)
    exact_checkpoints.write_json(
        output_dir / exact_checkpoints.COMPLETED, {"steps": summary["steps"]}
    )
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


if __name__ == "__main__":
    try:
        code = main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    # gloo's threads may abort a process that exits with them.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
