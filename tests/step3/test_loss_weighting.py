"""One optimizer step against the gradient written out by hand."""

from pathlib import Path

import pytest
from base_tokenizer import load_tokenizer
from batch_plan import BatchPlan
from dialogue_format import DEFAULT_META_PROMPTS, load_meta_prompts
from engraved_model import load_base_model
from engraving_data import EngravingData, padded_batch
from exact_trainer import summed_loss
from safetensors.torch import load_file
from training_records import read_training_records

LEARNING_RATE = 0.01


@pytest.fixture(scope="module")
def micro_batches(random_model, training_file):
    """The first step's three micro-batches of two examples, padded."""
    data = EngravingData(
        read_training_records(Path(training_file)),
        load_tokenizer(str(random_model)),
        load_meta_prompts(DEFAULT_META_PROMPTS),
        256,
        512,
    )
    plan = iter(BatchPlan(data.lengths, micro_batch_size=2, accumulation_steps=3))
    return [padded_batch([data[index] for index in next(plan)]) for _ in range(3)]


def weights_after_one_step(random_model, micro_batches, mean_of_means):
    model = load_base_model(str(random_model))
    sums, counts = zip(*(summed_loss(model, batch) for batch in micro_batches), strict=True)
    loss = sum(sums) / sum(counts)
    if mean_of_means:
        loss = sum(one / count for one, count in zip(sums, counts, strict=True)) / len(sums)
    loss.backward()
    return {
        name: (weight - LEARNING_RATE * weight.grad).detach()
        for name, weight in model.named_parameters()
    }


def greatest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("packing", ["true", "false"])
def test_one_step_is_the_gradient_of_the_mean_over_the_whole_step(
    engrave, random_model, micro_batches, packing, tmp_path
):
    """A mean of micro-batch means gives the tokens of short replies more weight than others."""
    engrave(
        *(tmp_path / "run", "--full_finetune", "--optim", "sgd", "--max_steps", 1),
        *("--learning_rate", LEARNING_RATE, "--lr_scheduler_type", "constant"),
        *("--warmup_ratio", 0, "--max_grad_norm", 1e9, "--save_strategy", "no"),
        *("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 3),
        *("--packing", packing),
    )
    trained = load_file(tmp_path / "run" / "model.safetensors")
    expected = weights_after_one_step(random_model, micro_batches, mean_of_means=False)
    wrong = weights_after_one_step(random_model, micro_batches, mean_of_means=True)
    assert greatest_difference(trained, expected) < 2e-6
    assert greatest_difference(trained, wrong) > 1e-4
