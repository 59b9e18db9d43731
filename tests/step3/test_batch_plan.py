"""The batch plan: every example once, the same steps for any number of processes."""

import random

import pytest
from batch_plan import BatchPlan

DRAWN = random.Random(0)
LENGTHS = [DRAWN.randint(5, 500) for _ in range(45)]


def steps_of(processes, accumulation, micro_batch=4, epoch=0, seed=1):
    """The sets of examples of each step, gathered over processes."""
    plans = [
        BatchPlan(
            LENGTHS,
            micro_batch_size=micro_batch,
            accumulation_steps=accumulation,
            processes=processes,
            process_index=rank,
            seed=seed,
        )
        for rank in range(processes)
    ]
    rows = []
    for plan in plans:
        plan.set_epoch(epoch)
        rows.append(list(plan))
        assert len(rows[-1]) == len(plan) == plan.steps * accumulation
    steps = []
    for step in range(plans[0].steps):
        window = slice(step * accumulation, (step + 1) * accumulation)
        steps.append(sorted(index for row in rows for batch in row[window] for index in batch))
    return steps, rows


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 2), (4, 1), (3, 2)])
def test_no_example_is_repeated_or_dropped(processes, accumulation):
    steps, _ = steps_of(processes, accumulation)
    assert sorted(index for step in steps for index in step) == list(range(45))
    assert len(steps[-1]) == 45 % (4 * processes * accumulation)


def test_steps_do_not_depend_on_the_number_of_processes():
    assert steps_of(1, 4)[0] == steps_of(2, 2)[0] == steps_of(4, 1)[0]


def test_epochs_and_seeds_shuffle_differently_and_repeatably():
    assert steps_of(1, 4, epoch=1)[0] != steps_of(1, 4)[0] != steps_of(1, 4, seed=2)[0]
    assert steps_of(1, 4, epoch=1)[1] == steps_of(1, 4, epoch=1)[1]


def test_micro_batches_of_a_step_are_full_and_balanced():
    _, rows = steps_of(2, 2)
    first_step = [batch for row in rows for batch in row[:2]]
    tokens = [sum(LENGTHS[index] for index in batch) for batch in first_step]
    assert [len(batch) for batch in first_step] == [4, 4, 4, 4]
    assert max(tokens) < 1.15 * min(tokens)
    step = sorted(index for batch in first_step for index in batch)
    in_order = [sum(LENGTHS[index] for index in step[start::4]) for start in range(4)]
    assert max(in_order) > 1.15 * min(in_order)  # not by chance


def test_set_epoch_reaches_the_plan_through_trainers_loader():
    """Trainer calls `loader.batch_sampler.batch_sampler.set_epoch`: it expects a wrapper."""
    plan = BatchPlan(LENGTHS, micro_batch_size=4, accumulation_steps=1)
    plan.batch_sampler.set_epoch(3)
    assert plan.epoch == 3
