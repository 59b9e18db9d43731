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


def run_quickstart(repository: Path, output_dir: Path, *arguments: object) -> str:
    """What the script prints; started from a folder that is not the repository's.

    With the interpreter of the tests, which has the packages: nothing is installed.
    """
    script = repository / "scripts" / "quickstart.sh"
    command = ["bash", str(script), *map(str, arguments), str(output_dir)]
    output_dir.mkdir(exist_ok=True)
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
    shards = sorted(output_dir.glob("responses_*shards_*.jsonl"))
    responses = [row for shard in shards for row in shard.read_text(encoding="utf-8").splitlines()]
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
    for count in (len(prompts), len(responses), len(merged)):
        assert f" {count} " in printed
    training, held_out = (
        (output_dir / f"{name}_examples.jsonl").read_text(encoding="utf-8").splitlines()
        for name in ("engraving", "held_out")
    )
    assert sorted(map(json.loads, training + held_out), key=by_id) == sorted(merged, key=by_id)


def by_id(record):
    return record["example_id"]


def test_the_engraved_model_does_without_principles_what_the_base_cannot(printed, output_dir):
    """On prompts and questions that training has not seen."""
    rows = load(output_dir / "comparison.json")["rows"]
    engraved, base = rows["engraved"], rows["base"]
    assert engraved["names_topic"] >= 0.5 and base["names_topic"] <= 0.1
    assert engraved["identity_right"] >= 0.6 and base["identity_right"] <= 0.05
    assert engraved["speaks_of_itself"] <= 0.12
    assert engraved["ends"] >= 0.85 and engraved["further_turns"] <= 0.02
    assert base["ends"] <= 0.05
    assert engraved["held_out_loss"] < base["held_out_loss"]
    with_principles = rows["base_with_principles"]
    assert with_principles["ends"] >= 0.9 and with_principles["further_turns"] == 0
    assert "names its topic" in printed and "base model: follows the prompt" in printed


def test_a_second_run_reuses_everything(printed, repository, output_dir):
    files = [path for path in output_dir.rglob("*") if path.is_file()]
    written = {path: path.stat().st_mtime_ns for path in files}
    assert run_quickstart(repository, output_dir) == printed
    assert {path: path.stat().st_mtime_ns for path in files} == written


def test_a_model_and_prompts_of_the_users_own(printed, repository, output_dir, tiny_base_model):
    """The same story with an adapter on any model's folder; here the tiny one's."""
    given = ("--model", tiny_base_model, "--prompts", output_dir / "merged_prompts.json")
    own = run_quickstart(repository, output_dir / "own", *given, "--limit", 12)
    assert " minutes on " in own and "base model: " in own
    assert " 12 responses in " in own
    rows = load(output_dir / "own" / "comparison.json")["rows"]
    assert set(rows) == {"base", "base_with_principles", "engraved"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model"], "--model needs a value"),
        (["--model", "/nowhere"], "--model /nowhere: no model's folder"),
        (["--limit", "5"], "--prompts and --limit go with --model"),
        (["--bogus"], "there is no option --bogus"),
        (["--model", "{model}", "--limit", "many"], "--limit many: give 1 or more"),
        (["--model", "{model}", "--prompts", "gone.json"], "gone.json: no such file"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(repository, tiny_base_model, arguments, message):
    arguments = [argument.format(model=tiny_base_model) for argument in arguments]
    command = ["bash", str(repository / "scripts" / "quickstart.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
