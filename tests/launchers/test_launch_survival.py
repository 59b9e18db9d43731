"""What launchers do when a job is stopped, a node fails or a process is killed."""

import os
import re
import signal
from pathlib import Path

import pytest
from launchers.conftest import python_that_fails, wait_until

GENERATE_70B = "scripts/self_align_generate_70b_base.sh"
GENERATE_8B = "scripts/self_align_generate_8b_base.sh"
FINETUNE_8B = "scripts/finetune_8b_sft.sh"
NAME_70B, NAME_8B = "llama2_70b_self_align", "llama3_8b_self_align"
ONE_AT_A_TIME = ("--slots", 1, "--max_new_tokens", 40, "--max_own_tokens", 120, "--keep_going")


def drain(cluster, job, process):
    """Sends what Slurm sends to the batch shell before the time limit; `process` is of that job.

    The process is stopped until the launcher has handed the signal on: it must not end before.
    """
    os.kill(process, signal.SIGSTOP)
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    wait_until(lambda: is_pending(process, signal.SIGUSR1), 60, "the signal to arrive")
    os.kill(process, signal.SIGCONT)
    wait_until(lambda: cluster.job(job)["Restarts"] == "1", 60, "the requeue")


def is_pending(process, number):
    """Whether a signal waits for a stopped process."""
    status = Path(f"/proc/{process}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*(\w+)", status, re.M)[1]
    return bool(int(pending, 16) & 1 << number - 1)


@pytest.mark.slow
def test_a_drained_array_task_goes_on_after_its_requeue(slurm_launch, cluster):
    """Two groups of two nodes; the last task, which has the array's own job id, is signalled.

    Pins: `scontrol requeue` of that id would have requeued every task of the array.
    """
    slurm_launch.write_prompts(16)
    options = ("--array", "0-1", "--nodes", 2, "--gres=gpu:32g:1")
    arguments = (GENERATE_70B, *slurm_launch.flags, *ONE_AT_A_TIME)
    job = slurm_launch.submit(*options, *arguments, GPUS_PER_NODE="1")
    shard = slurm_launch.data / f"{NAME_70B}_2shards_1.jsonl"
    wait_until(lambda: shard.exists() and shard.stat().st_size, 240, "a response of task 1")
    drain(cluster, f"{job}_1", the_rank(slurm_launch, "--group_rank 1", 0))
    assert 0 < shard.read_text().count("\n") < 8, "drained too late to tell"
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    assert slurm_launch.answered_once(NAME_70B, 16)
    assert cluster.job(f"{job}_0")["Restarts"] == "0", slurm_launch.screens()
    log = slurm_launch.log(f"{NAME_70B}_job{job}_group1")
    assert re.findall(r"job \d+, start (\d), group 1 of 2", log) == ["1", "2"]
    assert "drained" in log and log.count("done: 8 of 8 prompts answered") == 1


@pytest.mark.slow
def test_a_drained_finetuning_goes_on_after_its_requeue(slurm_launch, cluster):
    slurm_launch.write_examples(f"{NAME_8B}_merged.json", 16)
    flags = ("--device", "cpu", "--lora_r", 4, "--max_steps", 8, "--per_device_train_batch_size", 2)
    options = ("--gres=gpu:80g:1", FINETUNE_8B, *flags, "--gradient_accumulation_steps", 1)
    job = slurm_launch.submit(*options, GPUS_PER_NODE="1")
    wait_until(lambda: "'loss'" in slurm_launch.log("dromedary_8b_*"), 240, "the first step")
    drain(cluster, job, the_rank(slurm_launch, "finetune.py", 0))
    output = slurm_launch.data / "dromedary_8b"
    assert list(output.glob("checkpoint-*")) and not (output / "completed").exists()
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    assert (output / "completed").is_file()


@pytest.mark.slow
def test_a_node_failure_with_an_orphan_that_still_writes(slurm_launch, cluster):
    """Slurm loses the node, the node's processes live on, and Slurm starts the job elsewhere.

    The orphan is stopped until the second life has a shard of its own. Then it goes on, and costs
    double work at most; its launcher must not requeue the second life.
    """
    slurm_launch.write_prompts(16)
    arguments = (GENERATE_8B, *slurm_launch.flags, *ONE_AT_A_TIME)
    job = slurm_launch.submit("--gres=gpu:32g:1", *arguments, GPUS_PER_NODE="1")
    shard = slurm_launch.data / f"{NAME_8B}_1shards_0.jsonl"
    second = shard.with_name(f"{NAME_8B}_1shards_0.1.jsonl")
    wait_until(lambda: shard.exists() and shard.stat().st_size, 240, "a response")
    (orphan,) = slurm_launch.processes("generate_self_align_response.py")
    os.kill(orphan, signal.SIGSTOP)
    node = cluster.job(job)["NodeList"]
    try:
        cluster.control("orphan", node[-1])
        cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        wait_until(second.exists, 240, "the second life")
        os.kill(orphan, signal.SIGCONT)
        assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
        wait_until(lambda: not slurm_launch.processes(), 120, "the orphans to end")
    finally:
        cluster.restore_node(node[-1])
    assert cluster.job(job)["Restarts"] == "1"
    assert cluster.job(job)["NodeList"] != node
    answers = {}
    for row in slurm_launch.rows(NAME_8B):
        assert answers.setdefault(row["id"], row) == row
    assert len(answers) == 16


@pytest.mark.slow
def test_a_killed_process_ends_its_whole_group(slurm_launch):
    """Two nodes with two processes each; a process of the second node is killed with -9."""
    slurm_launch.write_prompts(200)
    line = ("salloc", "--nodes", 2, "--gres=gpu:32g:6", "srun", "bash", GENERATE_70B)
    process = slurm_launch.start(*line, *slurm_launch.flags, *ONE_AT_A_TIME)
    wait_until(lambda: slurm_launch.rows(NAME_70B), 240, "a response")
    os.kill(the_rank(slurm_launch, "--group_rank 0", 3), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 137, output
    message = r"error: rank 3 of 4 on node1 was killed by SIGKILL \(perhaps for lack of memory\)"
    assert re.search(message, output)
    assert "the group ends with exit code" in slurm_launch.log()
    assert not slurm_launch.processes()


def the_rank(launch, part, rank):
    """The Python process of a rank, with `part` in its command line."""
    for process in launch.processes(part):
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{process}/environ").read_bytes():
            return process
    raise AssertionError(f"no rank {rank} with {part}")


@pytest.mark.slow
def test_a_drain_before_the_ranks_listen(slurm_launch, cluster):
    """The signal comes while Python starts: it must neither kill the rank nor get lost."""
    slurm_launch.write_prompts(2)
    options = ("--gres=gpu:32g:2", GENERATE_8B, *slurm_launch.flags)
    job = slurm_launch.submit(*options, GPUS_PER_GROUP="2")
    wait_until(lambda: slurm_launch.processes("generate_self_align"), 240, "a rank")
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    assert cluster.wait_for_end(job, 240) == {"COMPLETED"}, slurm_launch.screens()
    assert cluster.job(job)["Restarts"] == "1"
    assert "was killed" not in slurm_launch.log()
    assert slurm_launch.answered_once(NAME_8B, 2)


@pytest.mark.slow
def test_a_failed_job_is_tried_again_and_then_given_up(slurm_launch, cluster, tmp_path):
    slurm_launch.write_prompts(1)
    options = ("--gres=gpu:32g:1", GENERATE_8B)
    job = slurm_launch.submit(
        *options, PYTHON=str(python_that_fails(tmp_path)), RETRIES="1", GPUS_PER_NODE="1"
    )
    assert cluster.wait_for_end(job, 240) == {"FAILED"}
    assert cluster.job(job)["Restarts"] == "1"
    assert "error: failed again, after RETRIES=1" in slurm_launch.screens()


@pytest.mark.slow
def test_what_trying_again_cannot_mend_is_not_requeued(slurm_launch, cluster):
    slurm_launch.write_prompts(1)
    options = ("--nodes", 1, "--gres=gpu:32g:2", GENERATE_70B, *slurm_launch.flags, "--slots", 0)
    job = slurm_launch.submit(*options, NODES_PER_GROUP="1", RETRIES="1")
    assert cluster.wait_for_end(job, 240) == {"FAILED"}
    record = cluster.job(job)
    assert (record["ExitCode"], record["Restarts"]) == ("2:0", "0")
    assert slurm_launch.screens().count("error: argument --slots") == 1
    assert slurm_launch.screens().count("ended with exit code 2") == 1


@pytest.mark.slow
def test_a_failure_outweighs_a_drain(launch):
    """Two groups on one machine: one is killed, the other drains."""
    launch.write_prompts(200)
    process = launch.start("bash", GENERATE_8B, *launch.flags, *ONE_AT_A_TIME)
    wait_until(lambda: has_rows(launch, 0) and has_rows(launch, 1), 240, "a response of each")
    os.kill(the_rank(launch, "--group_rank 1", 0), signal.SIGKILL)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 137, output
    assert "drained; start again" in launch.log(f"{NAME_8B}_group0")
    assert "the group ends with exit code 137" in launch.log(f"{NAME_8B}_group1")


def has_rows(launch, group):
    """Whether a group of two has answered a prompt."""
    shards = launch.data.glob(f"{NAME_8B}_2shards_{group}*.jsonl")
    return any(shard.stat().st_size for shard in shards)


@pytest.mark.slow
def test_term_drains_a_workstation(launch):
    launch.write_prompts(200)
    command = ("bash", GENERATE_8B, *launch.flags, *ONE_AT_A_TIME)
    process = launch.start(*command, GPUS_PER_NODE="1")
    wait_until(lambda: launch.rows(NAME_8B), 240, "a response")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "start again to go on from here" in output
