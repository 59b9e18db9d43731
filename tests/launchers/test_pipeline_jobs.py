"""The whole pipeline as a chain of dependent jobs."""

import json
import re

import pytest

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
    return re.findall(r" job (\d+)", done.stdout)


@pytest.mark.slow
def test_all_steps_run_one_after_the_other(slurm_launch, cluster):
    jobs = submit(
        slurm_launch,
        GENERATION_ARGUMENTS=" ".join([*slurm_launch.flags, "--limit", "6"]),
        FINETUNING_ARGUMENTS="--lora_r 4 --max_steps 1 --gradient_accumulation_steps 1",
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


def test_nothing_runs_after_a_failed_step(slurm_launch, cluster):
    jobs = submit(slurm_launch, PYTHON="/bin/false")
    states = [cluster.wait_for_end(job, 120) for job in jobs]
    assert states == [{"FAILED"}, {"CANCELLED"}, {"CANCELLED"}, {"CANCELLED"}]


def test_what_is_missing_is_listed_in_one_message(slurm_launch):
    done = slurm_launch.run(*PIPELINE, MODEL_DIR="", DATA_DIR="/nowhere", ARRAY_TASKS="no")
    assert done.returncode == 2
    wanted = ("MODEL_DIR is ''", "DATA_DIR is '/nowhere'", "ARRAY_TASKS is 'no'", "OPENORCA_DATA")
    assert all(part in done.stdout for part in wanted), done.stdout
    assert len(done.stdout.splitlines()) == 1 + len(wanted)


def outputs(launch):
    """What the jobs wrote."""
    return "\n".join(path.read_text() for path in sorted(launch.data.glob("logs/*.out")))
