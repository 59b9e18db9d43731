"""The scheduler alone: which prompts are admitted when, and that live slots stay compact."""

import itertools
import random
import subprocess
import sys

from engine.scheduler import Request, Scheduler, Sequence


def sequences(count, tokens=5):
    """Sequences named 0, 1, …; `tokens` is their prompts' length, or a function of the number."""
    length = tokens if callable(tokens) else lambda _: tokens
    return [Sequence(Request(str(i), "text"), [7] * length(i), 10) for i in range(count)]


def names(some):
    return [int(sequence.request.id) for sequence in some]


def test_prompts_are_admitted_in_order_and_in_groups():
    scheduler = Scheduler(sequences(20), slots=10, admission_size=4, admission_tokens=1000)
    assert names(scheduler.admit()) == [0, 1, 2, 3]
    assert names(scheduler.admit()) == [4, 5, 6, 7]
    assert scheduler.admit() == [], "two free slots are fewer than a group"
    scheduler.release(scheduler.live[0])
    assert scheduler.admit() == []
    scheduler.release(scheduler.live[0])
    assert names(scheduler.admit()) == [8, 9, 10, 11]
    assert len(scheduler.live) == 10


def test_the_last_prompts_are_admitted_though_they_are_no_whole_group():
    scheduler = Scheduler(sequences(6), slots=8, admission_size=4, admission_tokens=1000)
    assert names(scheduler.admit()) == [0, 1, 2, 3]
    assert names(scheduler.admit()) == [4, 5]


def test_an_idle_engine_admits_at_once():
    scheduler = Scheduler(sequences(3), slots=2, admission_size=8, admission_tokens=1000)
    assert names(scheduler.admit()) == [0, 1]
    for sequence in list(scheduler.live):
        scheduler.release(sequence)
    assert names(scheduler.admit()) == [2]


def test_an_admission_is_bounded_in_tokens_but_takes_a_long_prompt_alone():
    lengths = [30, 30, 50, 500, 10, 10]
    scheduler = Scheduler(
        sequences(6, lengths.__getitem__), slots=64, admission_size=8, admission_tokens=100
    )
    admissions = [names(scheduler.admit()) for _ in range(4)]
    assert admissions == [[0, 1], [2], [3], [4, 5]]


def test_an_admission_may_meet_its_bound_exactly():
    lengths = [60, 40, 1, 100, 1]
    scheduler = Scheduler(
        sequences(5, lengths.__getitem__), slots=64, admission_size=8, admission_tokens=100
    )
    admissions = [names(scheduler.admit()) for _ in range(4)]
    assert admissions == [[0, 1], [2], [3], [4]]


def test_a_released_slot_is_taken_by_the_last_live_sequence():
    scheduler = Scheduler(sequences(4), slots=4, admission_size=4, admission_tokens=1000)
    scheduler.admit()
    assert scheduler.release(scheduler.live[1]) == (1, 3)
    assert names(scheduler.live) == [0, 3, 2]
    assert scheduler.release(scheduler.live[2]) == (2, 2)
    assert names(scheduler.live) == [0, 3]


def test_waiting_prompts_are_read_no_further_than_needed():
    """A lazy reader of hundreds of thousands of prompts must not be emptied into memory."""
    read = itertools.count()
    endless = (Sequence(Request(str(next(read)), ""), [1], 1) for _ in itertools.count())
    scheduler = Scheduler(endless, slots=4, admission_size=2, admission_tokens=100)
    assert scheduler.has_work
    scheduler.admit()
    scheduler.admit()
    assert next(read) <= 6


def test_random_runs_serve_every_prompt_once_in_compact_slots():
    for seed in range(30):
        random.seed(seed)
        count, slots = random.randint(0, 60), random.randint(1, 12)
        scheduler = Scheduler(
            sequences(count, lambda _: random.randint(1, 40)), slots, random.randint(1, 9), 64
        )
        slot_of, finished = {}, []  # the model's view: which sequence each slot holds
        while scheduler.has_work:
            while admitted := scheduler.admit():
                first = len(scheduler.live) - len(admitted)
                slot_of |= {first + i: sequence for i, sequence in enumerate(admitted)}
            assert 0 < len(scheduler.live) <= slots
            assert [slot_of[i] for i in range(len(scheduler.live))] == scheduler.live
            for sequence in random.sample(scheduler.live, random.randint(0, len(scheduler.live))):
                target, source = scheduler.release(sequence)
                slot_of[target] = slot_of[source]
                finished.append(sequence)
        assert sorted(names(finished)) == list(range(count))


def test_no_prompts_are_no_work():
    scheduler = Scheduler([], slots=4, admission_size=2, admission_tokens=100)
    assert not scheduler.has_work
    assert scheduler.admit() == []


def test_scheduling_and_stopping_do_without_torch(repository):
    code = "import sys, engine.scheduler, engine.stopping; sys.exit('torch' in sys.modules)"
    folder = repository / "step2_principle_driven_self_alignment"
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0
