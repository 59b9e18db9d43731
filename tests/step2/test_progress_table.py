"""The progress of a run, as the command shows it, from files that real writers left."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from response_shards import encode_row, manifest_path, shard_path, status_path
from run_manifest import RunManifest, hash_prompt_ids
from shard_writer import ShardWriter
from step2.shard_worker import answer as response

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
    with ShardWriter(folder / "run", size, rank) as writer:
        for index in indices:
            writer.append(response(index))


def test_no_run_is_an_error(progress):
    code, _, message = progress()
    assert code == 1 and "no run is named" in message


def test_a_run_is_loading_as_long_as_a_launch_lives(progress, tmp_path):
    """One that was killed while it loaded kept a script that waits waiting for ever."""
    with ShardWriter(tmp_path / "run", 2, 0):
        code, _, message = progress()
        assert code == 3 and "1 groups are loading" in message
    shard = shard_path(tmp_path / "run", 2, 0)
    shard.touch()
    for status in ("", "{", json.dumps({"state": "loading", "host": socket.gethostname()})):
        status_path(shard).write_text(status)
        code, _, message = progress()
        assert code == 1 and "ended before they answered anything" in message
    save_manifest(tmp_path, 2)
    code, rows, _ = progress()
    assert code == 3 and rows[0].endswith("no process")


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
    assert rows[2].strip() == "4 of all by launches with --group_size 1"
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
    assert "STANDS STILL for 16:4" in rows[2]
    assert rows[3].endswith("not started")
    assert total.startswith("7 of 16 prompts answered (43.8%)") and "unknown" in total
    assert "STANDS STILL" not in "".join(progress("--stalled_after", "2000")[1])


def test_a_running_group_shows_its_rate_and_a_stalled_one_its_process(progress, tmp_path):
    save_manifest(tmp_path, 4)
    with ShardWriter(tmp_path / "run", 1, 0) as writer:
        assert "loading on" in progress()[1][0]
        writer.append(response(0))
        launch = {"answered_before": 0, "tokens_per_second": 50, "seconds_left": 30}
        writer.show(lambda: {"prompts_assigned": 4, "latest_launch": launch})
        code, rows, total = progress()
        assert code == 3
        assert rows[0].split()[:5] == ["0", "1", "4", "50", "00:30"] and "running on" in rows[0]
        assert total.endswith("50 tokens/s, 00:30 left")
        assert "STANDS STILL" in progress("--stalled_after", "0")[1][0]
        assert "lives" in progress("--stalled_after", "0")[1][0]
    assert progress()[1][0].split()[:3] == ["0", "1", "4"]
    assert "running" not in progress()[1][0]


def test_times_in_the_future_are_no_trouble(progress, tmp_path):
    save_manifest(tmp_path, 4)
    answer(tmp_path, 1, 0, [0])
    shard, future = shard_path(tmp_path / "run", 1, 0), time.time() + 86400
    status = {"state": "answering", "host": "elsewhere"}
    status_path(shard).write_text(json.dumps(status))
    for path in (shard, status_path(shard)):
        os.utime(path, (future, future))
    answer(tmp_path, 2, 0, [2])
    code, rows, _ = progress()
    assert code == 3 and len(rows) in (2, 3) and "STANDS STILL" not in "".join(rows)


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


def test_shards_of_another_run_are_an_error(progress, tmp_path):
    save_manifest(tmp_path, 2)
    answer(tmp_path, 1, 0, [0, 5])
    code, _, message = progress()
    assert code == 2 and "another run" in message


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"prompts": "x"}'])
def test_a_damaged_manifest_is_one_line(progress, tmp_path, content):
    answer(tmp_path, 1, 0, [0])
    manifest_path(tmp_path / "run").write_text(content)
    code, rows, message = progress()
    assert code == 2 and not rows and "run.manifest.json is not a run's manifest" in message


def test_a_group_tells_its_share_after_a_change_of_group_count(progress, tmp_path):
    """Its answered prompts are those of its share, whichever group sizes answered them."""
    save_manifest(tmp_path, 12)
    answer(tmp_path, 1, 0, range(0, 6, 2))  # all in the share of the first of two groups
    shard = shard_path(tmp_path / "run", 2, 0)
    shard.write_bytes(encode_row(response(6)))
    status = {"prompts_assigned": 6, "latest_launch": {"answered_before": 3}, "state": "ended"}
    status_path(shard).write_text(json.dumps(status))
    assert progress()[1][0].split()[:3] == ["0", "4", "6"]


def test_it_starts_without_torch(repository, tmp_path):
    program = "import generation_progress, sys; sys.exit('torch' in sys.modules)"
    folder = repository / "step2_principle_driven_self_alignment"
    assert subprocess.run([sys.executable, "-c", program], cwd=folder).returncode == 0
