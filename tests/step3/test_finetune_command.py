"""finetune.py as a command: what it refuses before any work, and what a finished run does."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from engraving_command import UserError


@pytest.fixture(scope="module")
def finished(engrave, tmp_path_factory):
    """A run of four steps that is completed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert engrave(folder, "--save_steps", 2) == 0
    return folder


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_completed_is_written_last(finished):
    times = times_of(finished)
    assert max(times, key=times.get) == finished / "completed"
    assert not (finished / ".saving").exists()


def test_a_completed_run_says_so_instead_of_training_again(engrave, finished, caplog):
    before = times_of(finished)
    with caplog.at_level(logging.INFO):
        assert engrave(finished, "--save_steps", 2) == 0
    assert "is completed: nothing to do" in caplog.text
    assert times_of(finished) == before


@pytest.mark.parametrize(
    ("flag", "value", "field"),
    [
        ("--learning_rate", "1e-3", "learning_rate"),
        ("--lora_r", "8", "lora_r"),
        ("--seed", "7", "seed"),
        ("--bits", "4", "bits"),
        ("--max_steps", "5", "max_steps"),
        ("--source_max_len", "200", "source_max_len"),
        ("--per_device_train_batch_size", "2", "examples_per_step"),
        ("--lr_scheduler_type", "linear", "lr_scheduler_type"),
    ],
)
def test_a_run_with_another_setting_is_refused_by_name(engrave, finished, flag, value, field):
    with pytest.raises(UserError, match=f"holds a run with {field} ="):
        engrave(finished, flag, value)


def test_a_run_with_other_data_or_another_base_is_refused(
    engrave, finished, training_file, random_model, tmp_path, monkeypatch
):
    """A resume on a changed data set went on without a word."""
    records = json.loads(training_file.read_text())
    records[0]["output"] += " Changed."
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(records))
    with pytest.raises(UserError, match="holds a run with data_sha256 ="):
        engrave(finished, data_file=changed)

    other = tmp_path / random_model.name  # of the same size, with one weight changed
    shutil.copytree(random_model, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="holds a run with base_model_files ="):
        engrave(finished, "--model_name_or_path", other)


def test_resume_never_wants_a_fresh_folder(engrave, finished, tmp_path):
    begun = tmp_path / "begun"
    shutil.copytree(finished, begun)
    (begun / "completed").unlink()
    with pytest.raises(UserError, match="holds checkpoints already"):
        engrave(begun, "--resume", "never")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning_rat", "1e-3"), "(did you mean --learning_rate?)"),
        (("--bits", "8"), "argument --bits: invalid choice: 8"),
        (("--learning_rate", "fast"), "invalid float value: 'fast'"),
        (("--learning_rate", "nan"), "--learning_rate nan must be a finite number"),
        (("--lora_alpha", "0"), "--lora_alpha 0.0 must be above 0"),
        (("--num_train_epochs", "0"), "--num_train_epochs 0.0 must be above 0"),
        (("--per_device_train_batch_size", "0"), "size 0 must be at least 1"),
        (("--max_steps", "0"), "--max_steps 0 would train nothing"),
        (("--packing", "maybe"), "'maybe' must be true or false"),
        (("--ignore_data_skip",), "--ignore_data_skip is not supported"),
        (("--save_only_model", "true"), "--save_only_model is not supported"),
        (("--trust_remote_code",), "unrecognized arguments: --trust_remote_code"),
        (("--bits", "4", "--full_finetune"), "--full_finetune needs --bits 16"),
        (("--warmup_ratio", "1.5"), "--warmup_ratio 1.5 must be below 1"),
        (("--source_max_len", "1"), "--source_max_len 1 must be at least 2"),
        (("--dataloader_drop_last", "true"), "--dataloader_drop_last is not supported"),
        (("--load_best_model_at_end", "true"), "--load_best_model_at_end is not supported"),
        (("--resume_from_checkpoint", "x"), "--resume_from_checkpoint is not supported"),
    ],
)
def test_wrong_flags_end_with_code_2_before_any_work(engrave, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        engrave(tmp_path / "out", *arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "--help" in said
    assert len(said.splitlines()) <= 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", '[{"instruction": "Hi", "output": "Yes."}, {"instruction": "Hi"}]', "row 2"),
        ("rows.jsonl", '{"instruction": "Hi", "output": "Yes."}\n{"instru', "row 2: not valid"),
        ("rows.json", "[]", "holds no records"),
        ("rows.json", '{"instruction": "Hi"}', "must hold one JSON array"),
        ("rows.csv", "instruction,output", "must end with one of"),
        ("rows.json", '[{"instruction": "Hi", "output": "  "}]', "none of the 1 records"),
    ],
)
def test_bad_data_is_refused_naming_file_and_row(engrave, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        engrave(tmp_path / "out", data_file=tmp_path / name)
    # The folder was claimed by the bad file's fingerprint, and refused the mended one.
    assert not (tmp_path / "out").exists()


def test_missing_files_are_refused(engrave, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        engrave(tmp_path / "out", data_file=tmp_path / "none.json")
    assert "none.json'; --data_file takes a local file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        engrave(tmp_path / "out", "--model_name_or_path", tmp_path / "none")
    assert "takes a folder with a config.json" in capsys.readouterr().err
    with pytest.raises(UserError, match="no meta-prompt matches"):
        engrave(tmp_path / "out", "--meta_prompt_pattern", tmp_path / "*.txt")


@pytest.mark.parametrize("script", ["finetune", "export_model", "chat"])
def test_help_and_refused_flags_do_not_wait_for_torch(repository, tmp_path, script):
    """They took ten seconds."""
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    path = repository / "step3_principle_engraving" / f"{script}.py"
    for rank, flags, code in ((0, ["--help"], 0), (0, ["--nonsense"], 2), (1, ["--nonsense"], 2)):
        result = subprocess.run(
            [sys.executable, str(path), *flags],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "RANK": str(rank)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == code, result.stderr
        assert len(result.stderr.splitlines()) == (2 if code and rank == 0 else 0)
        assert ("--model_name_or_path" in result.stdout) == (code == 0)


@pytest.mark.slow
def test_errors_of_the_command_are_one_line(run_script, random_model, tmp_path):
    """The user sees the reason, not a traceback; earlier outputs stay."""
    (tmp_path / "bad.jsonl").write_text('{"instruction": 3, "output": "Yes."}\n')
    result = run_script(
        "step3_principle_engraving/finetune.py",
        *("--model_name_or_path", random_model, "--data_file", tmp_path / "bad.jsonl"),
        *("--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "bad.jsonl, row 1: the field 'instruction' must be a text, not 3" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_held_out_measures_before_and_after(talking_run):
    summary = json.loads((talking_run / "training_summary.json").read_text())
    before, after = summary["held_out_before"], summary["held_out_after"]
    assert after["loss"] < 0.1 < before["loss"]
    assert (before["replies_that_end"], after["replies_that_end"]) == (0.0, 1.0)
    assert summary["data"]["examples"] == 8
    report = (talking_run / "training_report.html").read_text()
    assert "data:image/png;base64," in report
    assert "<td>replies that end by themselves</td>" in report
    assert '<td class="number">0%</td><td class="number">100%</td>' in report
