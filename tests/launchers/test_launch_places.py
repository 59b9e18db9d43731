"""Where launchers run: salloc and srun, sbatch, an array, a plain shell; what they refuse."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

STEP2 = "step2_principle_driven_self_alignment"
STEP3 = "step3_principle_engraving"
GENERATE_70B = "scripts/self_align_generate_70b_base.sh"
GENERATE_8B = "scripts/self_align_generate_8b_base.sh"
FINETUNE_70B = "scripts/finetune_dromedary2_70b_sft.sh"
FINETUNE_8B = "scripts/finetune_8b_sft.sh"
NAME_70B, NAME_8B = "llama2_70b_self_align", "llama3_8b_self_align"


def documented(repository, launcher):
    """The line of the README that starts a launcher, as words."""
    line = re.search(rf"^salloc .*{launcher}$", (repository / "README.md").read_text(), re.M)
    return shlex.split(line[0])


def check_four_groups(launch):
    """Eight nodes have answered 8 prompts as 4 groups of 2 nodes with 2 processes each."""
    assert launch.answered_once(NAME_70B, 8)
    starts = re.findall(r"^on node(\d) node(\d): 4 processes, .*:(\d+);", launch.log(), re.M)
    assert sorted(start[:2] for start in starts) == [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")]
    assert len({port for _, _, port in starts}) == 4, "groups must not meet at one port"
    for group in range(4):
        log = launch.log(f"{NAME_70B}_job*_group{group}")
        assert f"--tensor_parallel 4 --group_size 4 --group_rank {group}" in log
        assert "CUDA_VISIBLE_DEVICES=0\\,1 " in log
        assert log.count("done: 2 of 2 prompts answered") == 1
        assert max(map(len, log.splitlines())) < 1500 and "\r" not in log


@pytest.mark.slow
def test_the_documented_generation_line(slurm_launch, run_script):
    slurm_launch.write_prompts(8)
    line = documented(slurm_launch.repository, GENERATE_70B)
    assert line[:3] == ["salloc", "--nodes", "64"]
    done = slurm_launch.run(*line[:2], 8, *line[3:], *slurm_launch.flags, cwd=STEP2)
    assert done.returncode == 0, done.stdout
    check_four_groups(slurm_launch)
    progress = [f"{STEP2}/generation_progress.py", "--output_file"]
    assert run_script(*progress, slurm_launch.data / f"{NAME_70B}.jsonl").returncode == 0


@pytest.mark.slow
def test_the_same_by_sbatch(slurm_launch, cluster):
    slurm_launch.write_prompts(8)
    options = ("--nodes", 8, "--time", "6:00:00", "--gres=gpu:32g:6")
    job = slurm_launch.submit(*options, GENERATE_70B, *slurm_launch.flags, cwd=STEP2)
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    check_four_groups(slurm_launch)


@pytest.mark.slow
def test_an_array_shares_the_groups(slurm_launch, cluster):
    """Two tasks of one node with two single-process groups each."""
    slurm_launch.write_prompts(8)
    options = ("--array", "0-1", "--gres=gpu:32g:2")
    job = slurm_launch.submit(*options, GENERATE_8B, *slurm_launch.flags)
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    assert slurm_launch.answered_once(NAME_8B, 8)
    for group in range(4):
        log = slurm_launch.log(f"{NAME_8B}_job{job}_group{group}")
        assert f"--tensor_parallel 1 --group_size 4 --group_rank {group}" in log
        assert f"CUDA_VISIBLE_DEVICES={group % 2} " in log


@pytest.mark.slow
def test_a_task_of_an_array_is_submitted_again(slurm_launch, cluster):
    """ARRAY_SIZE tells the size of the whole array."""
    slurm_launch.write_prompts(8)
    options = ("--array", "1", "--gres=gpu:32g:2", GENERATE_8B, *slurm_launch.flags, "--dry_run")
    job = slurm_launch.submit(*options, ARRAY_SIZE="2")
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    groups = re.findall(r"--group_size (\d) --group_rank (\d)", slurm_launch.log())
    assert groups == [("4", "2"), ("4", "3")]
    ports = re.findall(r"rank 0 listens at 127.0.0.1:(\d+)", slurm_launch.log())
    assert len(set(ports)) == 2, "groups on one node must not meet at one port"


@pytest.mark.slow
def test_the_documented_finetuning_line(slurm_launch):
    slurm_launch.write_examples(f"{NAME_70B}_merged.json", 8)
    line = documented(slurm_launch.repository, FINETUNE_70B)
    flags = ["--device", "cpu", "--bits", "16", "--lora_r", "4", "--max_steps", "1"]
    done = slurm_launch.run(*line, *flags, cwd=STEP3)
    assert done.returncode == 0, done.stdout
    assert (slurm_launch.data / "dromedary2_70b" / "completed").is_file()
    log = slurm_launch.log("dromedary2_70b_job*")
    assert "2 processes, rank 0 listens at" in log
    assert "--gradient_accumulation_steps 16" in log, "not the published 128 examples a step"


@pytest.mark.slow
def test_a_workstation_without_slurm(launch):
    """Two processes, from another folder; started again, there is nothing to do."""
    launch.write_prompts(4)
    command = ["bash", launch.repository / STEP2 / GENERATE_70B, *launch.flags]
    done = launch.run(*command, cwd="..")
    assert done.returncode == 0, done.stdout
    assert launch.answered_once(NAME_70B, 4)
    assert "rank 0 listens at 127.0.0.1:" in launch.log(NAME_70B)
    assert "done: 4 of 4 prompts answered" in done.stdout
    again = launch.run(*command, cwd="..")
    assert again.returncode == 0, again.stdout
    assert "prompts answered" not in again.stdout
    assert launch.answered_once(NAME_70B, 4)


def test_an_odd_number_of_nodes_is_refused(slurm_launch):
    slurm_launch.write_prompts(1)
    line = ("salloc", "--nodes", 3, "--gres=gpu:32g:6", "srun", "bash", GENERATE_70B)
    done = slurm_launch.run(*line, timeout=60)
    assert done.returncode == 2
    message = "3 nodes do not divide into groups of NODES_PER_GROUP=2 nodes"
    assert done.stdout.count(message) == 1
    assert "such as 4" in done.stdout
    assert not slurm_launch.log()


def test_an_odd_number_of_nodes_is_refused_in_an_allocation(slurm_launch):
    slurm_launch.write_prompts(1)
    done = slurm_launch.run("salloc", "--nodes", 3, "bash", GENERATE_70B, timeout=60)
    assert done.returncode == 2
    assert "3 nodes do not divide into groups of NODES_PER_GROUP=2 nodes" in done.stdout


@pytest.mark.parametrize("launcher", [GENERATE_70B, GENERATE_8B, FINETUNE_70B, FINETUNE_8B])
def test_missing_settings_are_listed_in_one_message(launch, launcher):
    done = launch.run("bash", launcher, MODEL_DIR="", GPUS_PER_NODE="many")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0].endswith("cannot start:") and len(lines) == 4
    assert "MODEL_DIR is not set" in done.stdout
    assert "GPUS_PER_NODE is many: give 1 or more" in done.stdout
    assert f"there is no file {launch.data}/" in done.stdout


def test_missing_settings_are_told_once_by_many_nodes(slurm_launch):
    slurm_launch.write_prompts(1)
    line = ("salloc", "--nodes", 4, "srun", "bash", GENERATE_70B)
    done = slurm_launch.run(*line, MODEL_DIR="", timeout=60)
    assert done.returncode == 2
    assert done.stdout.count("MODEL_DIR is not set") == 1


def test_shellcheck_has_no_complaints(repository):
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here (Debian: shellcheck)")
    launchers = [
        repository / name for name in (GENERATE_70B, GENERATE_8B, FINETUNE_70B, FINETUNE_8B)
    ]
    others = [
        repository / "scripts" / "pipeline.sbatch.sh",
        Path(__file__).with_name("local_slurm.sh"),
    ]
    command = ["shellcheck", "--external-sources", *map(str, launchers + others)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_questions_are_answered_by_sbatch(slurm_launch, cluster):
    """Second turns too; each turn is a run of its own, over both GPUs of the job."""
    questions = [
        {"question_id": 1, "turns": ["How does rain form?"]},
        {"question_id": 2, "turns": ["Name a moon.", "Another one?"]},
    ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (slurm_launch.data / "question.jsonl").write_text(lines)
    output = slurm_launch.data / "answers"
    model = slurm_launch.environment["MODEL_DIR"]
    arguments = (model, slurm_launch.data / "question.jsonl", output)
    limits = ("--max_new_tokens", 8, "--max_own_tokens", 300, "--device", "cpu")
    settings = {"GPUS_PER_NODE": "2", "GPUS_PER_GROUP": "1"}
    script = "scripts/answer_questions.sh"
    job = slurm_launch.submit("--gres=gpu:32g:2", script, *arguments, *limits, **settings)
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    (model_answer,) = (output / "model_answer").iterdir()
    answers = [json.loads(line) for line in model_answer.open()]
    assert [len(answer["choices"][0]["turns"]) for answer in answers] == [1, 2]
    assert len(list(output.glob("turn_1_2shards_*.jsonl"))) == 2
