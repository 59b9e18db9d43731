"""What launchers make of a machine: GPUs, Python, folders, a container, other jobs' settings."""

import re
import shutil
import sys
from pathlib import Path

import pytest

GENERATE_70B = "scripts/self_align_generate_70b_base.sh"
GENERATE_8B = "scripts/self_align_generate_8b_base.sh"
FINETUNE_8B = "scripts/finetune_8b_sft.sh"
PIPELINE = "scripts/pipeline.sbatch.sh"
NAME_70B, NAME_8B = "llama2_70b_self_align", "llama3_8b_self_align"
CONTAINER_PROGRAMS = (
    "bash cat date dirname basename env getent grep head hostname kill ls mkdir nproc realpath rm "
    "sed sleep tee touch tr wc"
)


def write_program(path, text):
    """An executable shell script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def fake_gpus(launch, tmp_path):
    """Puts a program in the place of nvidia-smi; nothing else says which GPUs there are."""

    def install(text):
        program = write_program(tmp_path / "programs" / "nvidia-smi", text)
        launch.environment["PATH"] = f"{program.parent}:{launch.environment['PATH']}"
        for name in ("CUDA_VISIBLE_DEVICES", "GPUS_PER_NODE"):
            launch.environment.pop(name, None)

    return install


@pytest.fixture
def only_start(launch, tmp_path):
    """An interpreter that runs the launchers' own programs; ranks say how they were started."""
    text = f"""case $1 in
      {launch.repository}/scripts/*) exec {sys.executable} "$@" ;;
      *) echo "rank $RANK devices=${{CUDA_VISIBLE_DEVICES-none}} policy=$OMP_WAIT_POLICY" ;;
    esac"""
    launch.environment["PYTHON"] = str(write_program(tmp_path / "python", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo 'No devices were found'; exit 6", "No devices were found"),
        ("echo 'NVIDIA-SMI has failed because of the driver.'; echo; exit 9", "of the driver."),
        ("echo 'No devices were found'", "No devices were found"),
    ],
)
def test_what_a_failing_tool_says_is_shown_and_not_taken_for_gpus(
    launch, fake_gpus, only_start, text, message
):
    launch.write_prompts(1)
    fake_gpus(text)
    done = launch.run("bash", GENERATE_8B)
    assert done.returncode == 2
    assert done.stdout.count(message) == 1
    assert "give --device cpu" in done.stdout
    on_cpu = launch.run("bash", GENERATE_8B, "--device", "cpu")
    assert on_cpu.returncode == 0, on_cpu.stdout
    assert "devices=none" in on_cpu.stdout


def test_ranks_that_were_counted_by_gpus_never_fall_back_to_the_cpu(launch, fake_gpus, only_start):
    launch.write_prompts(1)
    launch.write_examples(f"{NAME_8B}_merged.json", 1)
    fake_gpus("printf '0\\n1\\n'")
    for launcher in (GENERATE_8B, FINETUNE_8B):
        done = launch.run("bash", launcher)
        assert done.returncode == 0, done.stdout
        assert "--device cuda" in done.stdout
    assert "devices=0 " in launch.log(f"{NAME_8B}_group0")
    assert "devices=1 " in launch.log(f"{NAME_8B}_group1")


@pytest.mark.parametrize("value", ["NoDevFiles", "-1", ""])
def test_words_for_no_gpu_are_no_gpus(launch, fake_gpus, only_start, value):
    launch.write_prompts(1)
    fake_gpus("printf '0\\n1\\n'")
    done = launch.run("bash", GENERATE_8B, CUDA_VISIBLE_DEVICES=value)
    assert done.returncode == 0, done.stdout
    assert "1 processes without GPUs" in done.stdout
    assert "--device cuda" not in done.stdout


def write_70b(model):
    """What LLaMA-2-70B's folder says of its size."""
    model.mkdir()
    (model / "params.json").write_text(
        '{"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096,'
        ' "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "vocab_size": -1}'
    )


@pytest.mark.parametrize(
    ("gpus", "memory", "size"),
    [
        (8, 81559, "1 4"),
        (4, 81559, "1 4"),
        (8, 40960, "1 8"),
        (6, 32768, "1 ''"),
        (2, 24576, "1 ''"),
    ],
)
def test_groups_of_a_70b_are_as_small_as_the_memory_allows(
    launch, fake_gpus, only_start, tmp_path, gpus, memory, size
):
    launch.write_prompts(1)
    write_70b(tmp_path / "model")
    fake_gpus(f"[[ $* == *memory* ]] && echo {memory} || seq 0 {gpus - 1}")
    done = launch.run("bash", GENERATE_70B, MODEL_DIR=str(tmp_path / "model"))
    assert done.returncode == 0, done.stdout
    nodes, group = size.split()
    sizes = f"NODES_PER_GROUP={nodes} GPUS_PER_NODE={gpus} GPUS_PER_GROUP={group}"
    assert sizes in done.stdout


@pytest.mark.slow
def test_the_published_gpus_take_two_nodes(slurm_launch, fake_gpus, only_start, tmp_path):
    slurm_launch.write_prompts(1)
    write_70b(tmp_path / "model")
    fake_gpus("[[ $* == *memory* ]] && echo 32768")
    line = ("salloc", "--nodes", 4, "--gres=gpu:32g:6", "srun", "bash", GENERATE_70B)
    done = slurm_launch.run(*line, MODEL_DIR=str(tmp_path / "model"), timeout=90)
    assert done.returncode == 0, done.stdout
    assert "--tensor_parallel 12 --group_size 2 --group_rank 1" in slurm_launch.log()


def test_missing_packages_are_said_with_the_remedy(launch, tmp_path):
    launch.write_prompts(1)
    bare = write_program(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    done = launch.run("bash", GENERATE_8B, PYTHON=str(bare))
    assert done.returncode == 2
    assert re.search(r"lacks packages \(torch, .*environment.sh' makes .venv", done.stdout)
    assert len(done.stdout.splitlines()) == 2
    gone = launch.run("bash", FINETUNE_8B, PYTHON="/nowhere/python")
    assert gone.returncode == 2
    assert "there is no /nowhere/python: 'bash " in gone.stdout


@pytest.mark.slow
def test_missing_packages_are_not_tried_again(slurm_launch, cluster, tmp_path):
    slurm_launch.write_prompts(1)
    bare = write_program(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    options = ("--nodes", 4, "--gres=gpu:32g:2", GENERATE_70B)
    job = slurm_launch.submit(*options, PYTHON=str(bare))
    assert cluster.wait_for_end(job, 120) == {"FAILED"}
    record = cluster.job(job)
    assert (record["ExitCode"], record["Restarts"]) == ("2:0", "0")
    assert slurm_launch.screens().count("lacks packages") == 1


@pytest.mark.parametrize(
    ("folder", "message"), [("/nowhere/data", "which is not a folder"), ("/proc", "be written to")]
)
def test_a_bad_data_folder_is_said_once_for_all_nodes(slurm_launch, folder, message):
    line = ("salloc", "--nodes", 4, "--gres=gpu:32g:2", "srun", "bash", GENERATE_70B)
    done = slurm_launch.run(*line, DATA_DIR=folder, timeout=60)
    assert done.returncode == 2
    assert done.stdout.count(message) == 1, done.stdout
    assert not Path("/nowhere").exists()


def test_a_folder_that_one_node_lacks_is_said_by_that_node(slurm_launch, tmp_path):
    slurm_launch.write_prompts(1)
    line = ("salloc", "--nodes", 2, "--gres=gpu:32g:2", "srun", "bash", "-c")
    script = f"[[ $SLURM_NODEID == 0 ]] || export MODEL_DIR=/nowhere; exec bash {GENERATE_70B}"
    program = write_program(tmp_path / "python", "case $1 in *missing*) ;; *) sleep 30 ;; esac")
    done = slurm_launch.run(*line, script, PYTHON=str(program), timeout=90)
    assert done.returncode == 2
    assert re.search(r"cannot start on node1:\n  - MODEL_DIR is /nowhere", done.stdout), done.stdout
    assert "node1 could not start" in slurm_launch.log(), "its group must not wait for it"


def test_a_job_without_gpus_is_told_so(slurm_launch):
    slurm_launch.write_prompts(1)
    slurm_launch.environment.pop("GPUS_PER_NODE")
    for line in (("srun", "bash", GENERATE_8B), ("bash", GENERATE_8B)):
        done = slurm_launch.run("salloc", "--nodes", 1, *line, timeout=60)
        assert done.returncode == 2
        assert re.search(r"job \d+ has no GPUs: ask Slurm for them", done.stdout), done.stdout


def test_a_step_that_sees_few_of_its_gpus_is_told_so(slurm_launch):
    slurm_launch.write_prompts(1)
    slurm_launch.environment.pop("GPUS_PER_NODE")
    line = ("salloc", "--nodes", 1, "--ntasks", 4, "--gpus-per-task=1")
    step = ("srun", "--ntasks", 1, "--ntasks-per-node=1", "bash", GENERATE_8B)
    done = slurm_launch.run(*line, *step, timeout=60)
    assert done.returncode == 2
    assert "the step sees 1 of the job's 4 GPUs" in done.stdout
    assert "--gpus-per-node=4" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        (("--ntasks-per-node=4", "--gres=none", "--gpus-per-task=1"), 14),  # exclusive: it has all
        (("--gres=none", "--gpus-per-node=80g:4"), 4),
        (("--gres=gpu:32g:2,gpu:80g:2",), 4),
    ],
)
def test_the_step_gets_all_of_the_job(slurm_launch, cluster, only_start, options, gpus):
    """Whatever other options the job has, or the job that it was submitted from."""
    slurm_launch.write_prompts(1)
    slurm_launch.environment.pop("GPUS_PER_NODE")
    outer = {"SLURM_MEM_PER_CPU": "4096", "SLURM_CPUS_PER_TASK": "99", "SLURM_GPUS_PER_TASK": "1"}
    job = slurm_launch.submit("--nodes=1", "--mem=8G", *options, GENERATE_8B, **outer)
    assert cluster.wait_for_end(job, 120) == {"COMPLETED"}, slurm_launch.screens()
    log = slurm_launch.log()
    groups = re.findall(rf"--group_size {gpus} --group_rank (\d+)", log)
    assert sorted(map(int, groups)) == list(range(gpus))
    started = re.findall(r"^rank 0 devices=(\d+) policy=passive", log, re.M)
    assert len(set(started)) == len(started) == gpus


def test_a_container_without_slurms_programs(slurm_launch, only_start, tmp_path):
    """One node needs no list of names; several get one message."""
    slurm_launch.write_prompts(1)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in CONTAINER_PROGRAMS.split():
        (tools / name).symlink_to(shutil.which(name))
    inside = f'PATH={tools} exec bash "$0"'
    for nodes, code in ((1, 0), (2, 2)):
        line = ("salloc", "--nodes", nodes, "--gres=gpu:80g:2", "srun", "bash", "-c", inside)
        done = slurm_launch.run(*line, GENERATE_8B, timeout=60)
        assert done.returncode == code, done.stdout
        assert done.stdout.count("scontrol") == nodes - 1, done.stdout
    assert "--group_size 2 --group_rank 1" in slurm_launch.log()
