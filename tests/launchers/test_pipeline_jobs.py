"""The whole pipeline as a chain of dependent jobs."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from launchers.conftest import python_that_fails

FOLDERS = ("scripts", "prompts", "dummy_data")
PIPELINE = ("bash", "scripts/pipeline.sbatch.sh", "8b")
ONE_CPU = "--mem=0 --cpus-per-task=1"


def submit(launch, **settings):
    """Starts the pipeline on the sample data; the numbers of its jobs."""
    samples = launch.repository / "scripts" / "quickstart_data"
    done = launch.run(
        *PIPELINE,
        **{
            "OPENORCA_DATA": str(samples / "openorca_sample.parquet"),
            "SHAREGPT_DATA": f"{samples}/sharegpt_value.json,{samples}/sharegpt_markdown.json",
            "ARRAY_TASKS": "2",
            "GPUS_PER_NODE": "1",
            "CPU_OPTIONS": ONE_CPU,
            "GENERATION_OPTIONS": "--gres=gpu:32g:1",
            "FINETUNING_OPTIONS": "--gres=gpu:80g:1",
            **settings,
        },
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    launch.printed = done.stdout
    return re.findall(r" job (\d+)", done.stdout)


@pytest.fixture
def copy_in_an_odd_place(repository, tmp_path):
    """A checkout whose path holds a blank and brackets."""
    folder = tmp_path / "self align [1]"
    ignored = shutil.ignore_patterns("__pycache__", "benchmarks")
    for path in (*repository.glob("step*"), *(repository / n for n in FOLDERS)):
        shutil.copytree(path, folder / path.name, symlinks=True, ignore=ignored)
    shutil.copy(repository / "requirements.txt", folder)
    return folder


@pytest.mark.slow
def test_all_steps_run_one_after_the_other(slurm_launch, cluster, copy_in_an_odd_place, tmp_path):
    """In folders whose names a shell or a glob would take apart."""
    slurm_launch.move(copy_in_an_odd_place, "my data [2]")
    principles = tmp_path / "my principles.txt"
    principles.write_text("Watson answers.\n\nUser:")
    jobs = submit(
        slurm_launch,
        GENERATION_ARGUMENTS=shlex.join(
            [*slurm_launch.flags, "--prompt_file", str(principles), "--limit", "6"]
        ),
        MERGE_ARGUMENTS="--allow_empty",  # responses of eight tokens
        FINETUNING_ARGUMENTS="--device cpu --lora_r 4 --max_steps 1",
    )
    assert len(jobs) == 4
    assert cluster.wait_for_end(jobs[-1], 400) == {"COMPLETED"}, outputs(slurm_launch)
    starts = [cluster.job(job)["StartTime"] for job in jobs]
    assert starts == sorted(starts)
    assert slurm_launch.answered_once("llama3_8b_self_align", 6)
    assert len({row["source"] for row in slurm_launch.rows("llama3_8b_self_align")}) > 1
    merged = json.loads((slurm_launch.data / "llama3_8b_self_align_merged.json").read_text())
    assert len(merged) >= 900, "the identity conversations are missing"
    assert (slurm_launch.data / "dromedary_8b" / "completed").is_file()
    array = [f"self_align_8b-{jobs[1]}_{task}.out" for task in range(2)]
    assert all((slurm_launch.data / "logs" / name).is_file() for name in array)
    progress = slurm_launch.printed.partition("how far step 2 is: ")[2].strip()
    subprocess.run(["bash", "-c", progress], cwd=tmp_path, check=True, capture_output=True)


def test_nothing_runs_after_a_failed_step(slurm_launch, cluster, tmp_path):
    jobs = submit(slurm_launch, PYTHON=str(python_that_fails(tmp_path)))
    states = [cluster.wait_for_end(job, 120) for job in jobs]
    assert states == [{"FAILED"}, {"CANCELLED"}, {"CANCELLED"}, {"CANCELLED"}]


def test_what_is_missing_is_listed_in_one_message(slurm_launch):
    done = slurm_launch.run(*PIPELINE, MODEL_DIR="", DATA_DIR="/nowhere", ARRAY_TASKS="no")
    assert done.returncode == 2
    wanted = ("MODEL_DIR is ''", "DATA_DIR is '/nowhere'", "ARRAY_TASKS is 'no'", "OPENORCA_DATA")
    assert all(part in done.stdout for part in wanted), done.stdout
    assert len(done.stdout.splitlines()) == 1 + len(wanted)


def test_what_later_jobs_would_lack_is_said_before_the_first(slurm_launch, tmp_path):
    """A folder without weights, a collection that isn't there, a Python without packages."""
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    settings = {"MODEL_DIR": str(tmp_path), "PYTHON": str(python)}
    data = {"OPENORCA_DATA": "gone.parquet", "SHAREGPT_DATA": "some/data", "DOLLY_DATA": "/gone"}
    done = slurm_launch.run(*PIPELINE, **settings, **data)
    assert done.returncode == 2
    wanted = (
        "holds no weights",
        "lacks packages (torch",
        "no file or folder gone.parquet",
        "/gone",
    )
    assert all(part in done.stdout for part in wanted), done.stdout
    assert len(done.stdout.splitlines()) == 1 + len(wanted)


def test_arguments_that_a_stage_would_refuse_are_refused_first(slurm_launch):
    (slurm_launch.data / "merged_prompts.json").write_text("[]")
    settings = {"GENERATION_ARGUMENTS": "--slot 3", "FINETUNING_ARGUMENTS": "--lora_r many"}
    done = slurm_launch.run(*PIPELINE, **settings, MERGE_ARGUMENTS="--max_repeated_share nan")
    assert done.returncode == 2
    wanted = ("--slot 3", "--max_repeated_share", "--lora_r")
    assert all(part in done.stdout for part in wanted), done.stdout
    assert len(done.stdout.splitlines()) == 1 + len(wanted)


def outputs(launch):
    """What the jobs wrote."""
    return "\n".join(path.read_text() for path in sorted(launch.data.glob("logs/*.out")))
