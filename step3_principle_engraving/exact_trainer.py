"""transformers' Trainer, with what exactness needs: batches, loss, held-out loss and checkpoints.

Batches come from a BatchPlan, so that no example is repeated and any number of processes trains on
the same steps. The loss is a sum over learned tokens divided by their number in the whole step,
over all processes and accumulated micro-batches. Checkpoints appear whole or not at all.
"""

import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import exact_checkpoints
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from batch_plan import BatchPlan
from engraving_data import IGNORED, EngravingData, packed_batch, padded_batch
from plain_files import saving
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

logger = logging.getLogger(__name__)

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class ExactTrainer(Trainer):
    """Trains on EngravingData; `packing` as in EngravingArguments."""

    def __init__(self, *args: object, packing: bool = True, **kwargs: object) -> None:
        collator = packed_batch if packing else padded_batch
        super().__init__(*args, data_collator=collator, **kwargs)
        self.loss_is_scaled_for_ga = True
        self._tokens_since_log, self._last_log_time = 0, time.perf_counter()

    def train(self, *args: object, **kwargs: object) -> TrainOutput:
        self._tokens_since_log, self._last_log_time = 0, time.perf_counter()
        return super().train(*args, **kwargs)

    # -- batches

    def plan_batches(self, data: EngravingData, shuffle: bool) -> BatchPlan:
        args = self.args
        return BatchPlan(
            data.lengths,
            micro_batch_size=args.per_device_train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            processes=args.world_size,
            process_index=args.process_index,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=shuffle,
        )

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, shuffle=True)

    def _loader(self, data: EngravingData, shuffle: bool) -> DataLoader:
        return DataLoader(
            data,
            batch_sampler=self.plan_batches(data, shuffle),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    # -- loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Learned tokens of the whole step, on all processes."""
        own = sum((batch["targets"] != IGNORED).sum() for batch in batch_samples)
        return self.accelerator.reduce(torch.as_tensor(own, device=device), reduction="sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The micro-batch's share of the step's loss, such that shares add up to the mean over
        tokens.
        """
        self._tokens_since_log += real_tokens(inputs)
        loss, _ = summed_loss(model, inputs)
        # Gradients are averaged over processes, while this is a share of a sum: undo the average.
        return loss * self.args.world_size / num_items_in_batch

    # -- held-out loss and log

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: EngravingData | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss over all learned tokens of the held-out examples."""
        data = eval_dataset or self.eval_dataset
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in self._loader(data, shuffle=False):
            loss, count = summed_loss(self.model, self._prepare_inputs(batch))
            totals += torch.stack([loss, count]).to("cpu", torch.float64)
        totals = self.accelerator.reduce(totals.to(self.args.device), reduction="sum")
        self.model.train(was_training)
        metrics = {f"{metric_key_prefix}_loss": (totals[0] / totals[1]).item()}
        if self.is_in_train:
            self.log(dict(metrics))
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds real tokens per second, over all processes, to the lines with a loss."""
        if "loss" in logs:
            now = time.perf_counter()
            tokens = torch.tensor(self._tokens_since_log, device=self.args.device)
            tokens = self.accelerator.reduce(tokens, reduction="sum").item()
            logs["tokens_per_second"] = round(tokens / (now - self._last_log_time), 1)
            self._tokens_since_log, self._last_log_time = 0, now
        super().log(logs, start_time)

    # -- checkpoints

    def _get_output_dir(self, trial: object = None) -> str:
        """Trainer writes into the staging folder; `_save_checkpoint` moves what is complete."""
        return str(Path(self.args.output_dir) / exact_checkpoints.STAGING)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object = None) -> None:
        output_dir = Path(self.args.output_dir)
        if self.args.should_save:
            exact_checkpoints.clear_staging(output_dir)
        self.accelerator.wait_for_everyone()
        with saving(output_dir):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.args.should_save:
            staged = Path(self._get_output_dir()) / f"checkpoint-{self.state.global_step}"
            exact_checkpoints.publish_checkpoint(staged, output_dir)
            exact_checkpoints.remove_old_checkpoints(output_dir, self.args.save_total_limit)
            exact_checkpoints.clear_staging(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle and an empty form that nobody needs: the fingerprint lists the settings.
        for name in ("training_args.bin", "README.md"):
            (Path(output_dir or self.args.output_dir) / name).unlink(missing_ok=True)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # What the next line of the log will average over, else a resumed log would differ.
        pending = {"loss": self._tr_loss, "last_logged": self._globalstep_last_logged}
        torch.save(pending, self._pending_loss_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self._pending_loss_file(checkpoint).is_file():
            pending = torch.load(self._pending_loss_file(checkpoint), weights_only=True)
            self._tr_loss += pending["loss"].to(self._tr_loss.device)
            self._globalstep_last_logged = pending["last_logged"]

    def _pending_loss_file(self, folder: str) -> Path:
        return Path(folder) / f"pending_loss_{self.args.process_index}.pth"

    def agreed_checkpoint(self) -> str | None:
        """The newest good checkpoint, decided by the first process for all."""
        found = [None]
        if self.args.should_save:
            found = [exact_checkpoints.newest_good_checkpoint(Path(self.args.output_dir))]
        path = broadcast_object_list(found)[0]
        return None if path is None else str(path)


def summed_loss(
    model: torch.nn.Module, inputs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over the learned tokens of a batch, and how many these are (both
    scalars).
    """
    inputs = dict(inputs)
    targets = inputs.pop("targets")
    logits = model(**inputs, use_cache=False).logits  # [rows, positions, vocabulary]
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, (targets != IGNORED).sum()


def real_tokens(inputs: dict[str, Any]) -> int:
    """Tokens of a batch, padding not counted."""
    if "attention_mask" in inputs:
        return int(inputs["attention_mask"].sum())
    return sum(inputs["segment_lengths"])


class Drain(TrainerCallback):
    """Saves and stops after the current step once any process got SIGTERM, SIGUSR1 or SIGUSR2."""

    def __init__(self) -> None:
        self.requested = False
        self.drained = False
        for number in DRAIN_SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        requested = self.requested
        if args.world_size > 1:
            flag = torch.tensor(int(requested), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            requested = bool(flag)
        if requested and state.global_step < state.max_steps:
            logger.warning("stopping after step %d of %d", state.global_step, state.max_steps)
            self.drained = control.should_save = control.should_training_stop = True
