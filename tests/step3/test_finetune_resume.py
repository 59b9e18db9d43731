"""Interrupted runs end in the same bits as undisturbed ones, and two processes train as one."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exact_checkpoints import newest_good_checkpoint
from exact_trainer import DRAIN_SIGNALS, Drain
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this file lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run_forked(repository, folder):
    """Runs a list of (flags, processes, interruptions); returns exit codes and standard error."""

    def run(*runs):
        scenario = folder / "scenario.json"
        keys = ("flags", "processes", "interruptions")
        scenario.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in runs]))
        result = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("forked_runs.py")), str(scenario)],
            env={
                **os.environ,
                "PYTHONPATH": str(repository / "step3_principle_engraving"),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            },
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1]), result.stderr

    return run


@pytest.fixture(scope="module")
def flags(random_model, training_file, folder):
    """The command line of a run of 20 steps into a folder of the given name."""

    def build(name, *more):
        return [
            *("--model_name_or_path", str(random_model), "--data_file", str(training_file)),
            *("--output_dir", str(folder / name), "--max_steps", str(STEPS)),
            *("--save_steps", "2", "--learning_rate", "1e-2", "--lora_r", "4"),
            *("--gradient_accumulation_steps", "2", "--source_max_len", "128"),
            *("--disable_tqdm", "true", *more),
        ]

    return build


def fingerprint_of(output_dir):
    """Weights, optimizer and loss log of a finished run; times are left out."""
    checkpoint = output_dir / f"checkpoint-{STEPS}"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    timeless = [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in state["log_history"]
    ]
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    digest = hashlib.sha256(json.dumps(timeless).encode())
    for parameter in sorted(optimizer):
        for name in ("exp_avg", "exp_avg_sq"):
            digest.update(optimizer[parameter][name].numpy().tobytes())
    for path in sorted(output_dir.glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            digest.update(name.encode() + tensor.float().numpy().tobytes())
    return len(timeless), digest.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(run_forked, flags, folder):
    """A run that nothing interrupts."""
    codes, _ = run_forked((flags("undisturbed"), 1, []))
    assert codes == [[[0]]]
    return folder / "undisturbed"


@pytest.mark.slow
def test_twelve_kills_leave_no_trace(run_forked, flags, folder, undisturbed):
    """Plain Trainer could not be restarted after six kills; a kill amid a save was the worst."""
    kills = ["saving", "random"] * 7
    [codes], _ = run_forked((flags("killed"), 1, kills))
    assert sum(code == [-9] for code in codes) >= 12
    assert codes[-1] == [0]
    assert fingerprint_of(folder / "killed") == fingerprint_of(undisturbed)
    assert fingerprint_of(undisturbed)[0] == STEPS
    assert not (folder / "killed" / ".saving").exists()


@pytest.mark.slow
def test_nf4_and_full_runs_resume_exactly(run_forked, flags, folder):
    kinds = {
        "nf4": ("--bits", "4", "--lora_dropout", "0.1", "--logging_steps", "3"),
        "full": ("--full_finetune", "--lr_scheduler_type", "linear", "--logging_steps", "3"),
    }
    runs = []
    for name, more in kinds.items():
        runs += [(flags(f"{name}_whole", *more), 1, [])]
        runs += [(flags(f"{name}_stopped", *more), 1, ["SIGTERM", "saving", "SIGUSR1"])]
    codes, _ = run_forked(*runs)
    for name, codes_of_stopped in (("nf4", codes[1]), ("full", codes[3])):
        assert codes_of_stopped == [[75], [-9], [75], [0]]
        whole, stopped = folder / f"{name}_whole", folder / f"{name}_stopped"
        assert fingerprint_of(stopped) == fingerprint_of(whole)


@pytest.mark.slow
def test_two_processes_resume_exactly_and_train_as_one(run_forked, flags, folder):
    """45 examples in steps of 8 leave a tail of 5 for two processes, one of them short."""
    one = flags("one", "--gradient_accumulation_steps", "2", "--max_grad_norm", "1e9")
    two = [*flags("two"), "--gradient_accumulation_steps", "1", "--max_grad_norm", "1e9"]
    stopped = [*two]
    stopped[stopped.index("--output_dir") + 1] = str(folder / "two_stopped")
    codes, _ = run_forked((one, 1, []), (two, 2, []), (stopped, 2, ["SIGUSR2", "saving"]))
    assert codes == [[[0]], [[0, 0]], [[75, 75], [-9, -9], [0, 0]]]
    assert fingerprint_of(folder / "two_stopped") == fingerprint_of(folder / "two")

    alone, together = (
        load_file(folder / name / "adapter_model.safetensors") for name in ("one", "two")
    )
    difference = max((alone[name] - together[name]).abs().max().item() for name in alone)
    assert difference < 2e-6
    assert losses(folder / "one") == pytest.approx(losses(folder / "two"), rel=2e-6)

    # 1 process with 2 micro-batches and 2 with 1 are the same run; 2 with 2 are another.
    other = [*one[:-4], *("--gradient_accumulation_steps", "1", "--max_grad_norm", "1e9")]
    codes, messages = run_forked((other, 2, []), (one, 2, []))
    assert codes[0] == [[0, 0]]
    assert codes[1][0] == [2, 2]
    assert "is completed: nothing to do" in messages
    assert messages.count("holds a run with examples_per_step = 8, this one has 16") == 1


def losses(output_dir):
    path = output_dir / f"checkpoint-{STEPS}" / "trainer_state.json"
    return [line["loss"] for line in json.loads(path.read_text())["log_history"]]


@pytest.mark.parametrize(("step", "stops"), [(STEPS - 1, True), (STEPS, False)])
def test_a_signal_in_the_last_step_lets_the_run_finish(step, stops):
    """It ended with 75, though nothing was left to do."""
    handlers = {number: signal.getsignal(number) for number in DRAIN_SIGNALS}
    try:
        drain, control = Drain(), TrainerControl()
        os.kill(os.getpid(), signal.SIGUSR1)
        state = TrainerState(global_step=step, max_steps=STEPS)
        drain.on_step_end(SimpleNamespace(world_size=1), state, control)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert drain.drained == control.should_training_stop == control.should_save == stops


@pytest.mark.slow
def test_damaged_checkpoint_is_passed_over(run_forked, flags, folder, undisturbed):
    damaged = folder / "damaged"
    shutil.copytree(undisturbed, damaged)
    (damaged / "completed").unlink()
    optimizer = damaged / f"checkpoint-{STEPS}" / "optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    assert newest_good_checkpoint(damaged).name == f"checkpoint-{STEPS - 2}"

    codes, messages = run_forked((flags("damaged"), 1, []))
    assert codes == [[[0]]]
    assert "skipping the damaged checkpoint" in messages
    assert "optimizer.pt differs from what was written" in messages
    assert fingerprint_of(damaged) == fingerprint_of(undisturbed)
