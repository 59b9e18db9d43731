"""The progress of a run, as the command shows it, from files that real writers left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from response_shards import ShardWriter, hash_prompt_ids, manifest_path, shard_path, summary_path
from run_manifest import RunManifest
from shard_lock import lock_path

WORKER = Path(__file__).parent / "shard_worker.py"


@pytest.fixture
def progress(run_script, tmp_path):
    """Runs the command on the run in tmp_path; returns exit code, table rows and last line."""

    def look(*flags):
        done = run_script(
            "step2_principle_driven_self_alignment/generation_progress.py",
            *("--output_file", tmp_path / "run.jsonl", *flags),
        )
        lines = done.stdout.splitlines()
        return done.returncode, lines[2:-1], (lines or [done.stderr])[-1]

    return look


def save_manifest(folder, prompts):
    hashes = ("model_config", "weights", "tokenizer", "principle_prompt", "filter_rules")
    fields = dict.fromkeys((*hashes, "dtype", "prompt_file_hash"), "")
    numbers = {"temperature": 1, "top_p": 1, "seed": 1, "max_new_tokens": 1, "max_own_tokens": 1}
    ids = hash_prompt_ids(f"{index:06}" for index in range(prompts))
    manifest = RunManifest(
        **fields, **numbers, keep_going=False, prompts=prompts, prompt_ids_hash=ids
    )
    manifest.save(manifest_path(folder / "run"))


def answer(folder, size, rank, indices):
    with ShardWriter(shard_path(folder / "run", size, rank)) as writer:
        for index in indices:
            writer.append({"id": f"{index:06}", "output": "yes", "finish_reason": "eos"})


def test_no_run_is_an_error(progress):
    code, _, message = progress()
    assert code == 1 and "no run is named" in message


def test_a_run_without_manifest_is_starting(progress, tmp_path):
    answer(tmp_path, 2, 0, [])
    assert progress()[0] == 3


def test_a_complete_run_exits_with_0(progress, tmp_path):
    save_manifest(tmp_path, 10)
    answer(tmp_path, 2, 0, range(0, 10, 2))
    answer(tmp_path, 2, 1, range(1, 10, 2))
    code, rows, total = progress()
    assert code == 0
    assert [row.split() for row in rows] == [
        ["0", "5", "5", "complete"],
        ["1", "5", "5", "complete"],
    ]
    assert total == "10 of 10 prompts answered (100.0%), complete"


def test_a_complete_run_of_several_group_sizes_exits_with_0(progress, tmp_path):
    save_manifest(tmp_path, 10)
    answer(tmp_path, 1, 0, range(4))
    answer(tmp_path, 2, 0, range(4, 10, 2))
    answer(tmp_path, 2, 1, range(5, 10, 2))
    code, rows, _ = progress()
    assert code == 0
    assert "in run_1shards_0.jsonl, by another group size" in rows[2]
    assert all(row.endswith("complete") for row in rows[:2])


def test_states_of_unfinished_groups(progress, tmp_path):
    save_manifest(tmp_path, 16)
    answer(tmp_path, 4, 0, range(0, 16, 4))
    answer(tmp_path, 4, 1, [1])
    answer(tmp_path, 4, 2, [2, 6])
    past = time.time() - 1000
    os.utime(shard_path(tmp_path / "run", 4, 2), (past, past))
    code, rows, total = progress()
    assert code == 3
    assert rows[0].endswith("complete")
    assert rows[1].endswith("no process")
    assert "STANDS STILL for 0:16:" in rows[2]
    assert rows[3].endswith("not started")
    assert total.startswith("7 of 16 prompts answered (43.8%)") and "unknown" in total
    assert "STANDS STILL" not in "".join(progress("--stalled_after", "2000")[1])


def test_a_running_group_shows_its_rate_and_a_stalled_one_its_process(progress, tmp_path):
    save_manifest(tmp_path, 4)
    with ShardWriter(shard_path(tmp_path / "run", 1, 0)) as writer:
        assert "loading on" in progress()[1][0]
        writer.append({"id": "000000", "output": "yes", "finish_reason": "eos"})
        status = {"assigned": 4, "answered": 1, "output_tokens": 500, "seconds": 10.0}
        writer._lock.refresh(status)
        code, rows, total = progress()
        assert code == 3
        assert rows[0].split()[:5] == ["0", "1", "4", "50", "0:00:30"] and "running on" in rows[0]
        assert total.endswith("50 tokens/s, 0:00:30 left")
        assert "STANDS STILL" in progress("--stalled_after", "0")[1][0]
        assert "lives" in progress("--stalled_after", "0")[1][0]


def test_it_can_look_while_a_group_writes(progress, tmp_path):
    """Rows that are just being written count as not there yet, never as an error."""
    save_manifest(tmp_path, 3000)
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(tmp_path / "run"), "1", "0", "3000"],
        stdout=subprocess.PIPE,
    )
    worker.stdout.readline()
    codes = []
    while not codes or codes[-1] == 3:
        codes.append(progress()[0])
    worker.communicate()
    assert codes[-1] == 0 and set(codes) <= {0, 3}


def test_a_torn_row_does_not_count(progress, tmp_path):
    save_manifest(tmp_path, 2)
    answer(tmp_path, 1, 0, [0, 1])
    shard = shard_path(tmp_path / "run", 1, 0)
    shard.write_bytes(shard.read_bytes()[:-4])
    code, rows, _ = progress()
    assert code == 3 and rows[0].split()[:3] == ["0", "1", "2"]
    assert not shard.with_name(shard.name + ".torn").exists(), "looking must not repair"


def test_shards_of_another_run_are_an_error(progress, tmp_path):
    save_manifest(tmp_path, 2)
    answer(tmp_path, 1, 0, [0, 5])
    code, _, message = progress()
    assert code == 1 and "another run" in message


def test_a_group_tells_its_share_after_a_change_of_group_count(progress, tmp_path):
    save_manifest(tmp_path, 12)
    answer(tmp_path, 1, 0, range(0, 6, 2))  # all in the share of the first of two groups
    answer(tmp_path, 2, 0, [6])
    summary = {"prompts_assigned": 3}
    summary_path(shard_path(tmp_path / "run", 2, 0)).write_text(json.dumps(summary))
    assert progress()[1][0].split()[:3] == ["0", "1", "3"]
    assert not lock_path(shard_path(tmp_path / "run", 2, 0)).exists()


def test_it_starts_without_torch(repository, tmp_path):
    program = "import generation_progress, sys; sys.exit('torch' in sys.modules)"
    folder = repository / "step2_principle_driven_self_alignment"
    assert subprocess.run([sys.executable, "-c", program], cwd=folder).returncode == 0
