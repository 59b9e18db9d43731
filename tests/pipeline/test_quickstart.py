"""The whole pipeline, run by the one command that a newcomer types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def printed(repository, output_dir) -> str:
    return run_quickstart(repository, output_dir)


def run_quickstart(repository: Path, output_dir: Path) -> str:
    """What the script prints; started from a folder that is not the repository's.

    With the interpreter of the tests, which has the packages: nothing is installed.
    """
    command = ["bash", str(repository / "scripts" / "quickstart.sh"), str(output_dir)]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=output_dir, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def load(path: Path) -> list | dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_stage_hands_its_records_on(printed, output_dir):
    prompts = load(output_dir / "merged_prompts.json")
    responses = (output_dir / "responses_1shards_0.jsonl").read_text(encoding="utf-8").splitlines()
    merged = load(output_dir / "self_align_merged.json")
    assert {p["source"].split("/")[0] for p in prompts} == {
        "openorca",
        "sharegpt",
        "dolly",
        "oasst1",
    }
    assert sorted(json.loads(row)["id"] for row in responses) == sorted(p["id"] for p in prompts)
    kept = sum(not record["source"].startswith("dummy") for record in merged)
    assert kept >= 0.8 * len(prompts)
    assert len(merged) - kept >= 900
    for count in (len(prompts), len(responses), len(merged)):
        assert f" {count} " in printed


def test_the_engraved_model_knows_itself_without_principles(printed, output_dir):
    summary = load(output_dir / "engraved" / "training_summary.json")
    before, after = summary["held_out_before"], summary["held_out_after"]
    assert after["loss"] < before["loss"] / 2
    assert before["replies_that_end"] < 0.5 <= 0.9 <= after["replies_that_end"]
    assert "Dromedary" not in (output_dir / "reply_of_checkpoint.txt").read_text(encoding="utf-8")
    reply = (output_dir / "reply_of_engraved_model.txt").read_text(encoding="utf-8")
    assert "Dromedary" in reply
    assert "###" not in reply
    assert reply.splitlines()[0] in printed.replace("\n", " ")


def test_a_second_run_reuses_everything(printed, repository, output_dir):
    files = [path for path in output_dir.rglob("*") if path.is_file()]
    written = {path: path.stat().st_mtime_ns for path in files}
    assert run_quickstart(repository, output_dir) == printed
    assert {path: path.stat().st_mtime_ns for path in files} == written
