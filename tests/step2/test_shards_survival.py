"""Shards through kills, torn bytes, launches at once and changed group counts: real processes."""

import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import shard_writer
from response_shards import (
    ResponseReader,
    encode_row,
    find_shards,
    finish_reasons,
    parse_shard_name,
    run_name,
    shard_path,
    status_path,
)
from run_manifest import hash_prompt_ids
from shard_writer import ShardWriter, is_living, read_status
from step2.shard_worker import answer
from user_error import TryAgainError, UserError

WORKER = Path(__file__).parent / "shard_worker.py"
LIFE = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "0"}
NEXT_LIFE = {**LIFE, "SLURM_RESTART_COUNT": "1"}


def start_worker(run, size, rank, prompts, pause=0.0, env=None):
    """Starts a worker and waits for its first word; returns the process and the word."""
    worker = launch_worker(run, size, rank, prompts, pause, env)
    return worker, worker.stdout.readline().strip()


def launch_worker(run, size, rank, prompts, pause=0.0, env=None):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, (run, size, rank, prompts, pause))],
        stdout=subprocess.PIPE,
        text=True,
        env={**clean, **(env or {})},
    )


def kill(worker):
    worker.kill()
    worker.wait()
    worker.stdout.close()


def finish(worker):
    words = worker.stdout.read()
    worker.stdout.close()
    return worker.wait(), words


def check_complete(run, prompts):
    """Every prompt has one answer, and it is the right one; returns how many were given twice."""
    reader = ResponseReader(find_shards(run))
    rows = list(reader.read())
    assert sorted(row["id"] for row in rows) == [f"{index:06}" for index in range(prompts)]
    assert all(row == {**answer(int(row["id"])), "input": ""} for row in rows)
    assert reader.differing == 0
    return reader.repeated


def write_shard(path, *rows, end=b""):
    path.write_bytes(b"".join(map(encode_row, rows)) + end)
    return path


def test_names_round_trip(tmp_path):
    run = run_name(tmp_path / "self_align[1].jsonl")
    assert shard_path(run, 12, 3).name == "self_align[1]_12shards_3.jsonl"
    assert shard_path(run, 12, 3, 2).name == "self_align[1]_12shards_3.2.jsonl"
    assert status_path(shard_path(run, 12, 3, 2)).name == "self_align[1]_12shards_3.2.status.json"
    for launch in (0, 2, 10):
        assert parse_shard_name(shard_path(run, 12, 3, launch)) == (run, 12, 3, launch)
    strangers = ("x.jsonl", "x_4shards_4.jsonl", "x_0shards_0.jsonl", "x_4shards_0.json")
    for other in (*strangers, "x_4shards_1.0.jsonl", "x_4shards_1.a.jsonl"):
        assert parse_shard_name(tmp_path / other) is None


def test_shards_are_found_in_the_order_of_numbers(tmp_path):
    run = tmp_path / "run"
    expected = [(3, 0, 0), (3, 0, 2), (3, 0, 10), (12, 2, 0), (12, 10, 0)]
    for numbers in reversed(expected):
        shard_path(run, *numbers).touch()
    for stranger in ("run_12shards_2.status.json", "rerun_3shards_0.jsonl"):
        (tmp_path / stranger).touch()
    assert [parse_shard_name(path)[1:] for path in find_shards(run)] == expected


def test_ids_hash_does_not_depend_on_order():
    assert hash_prompt_ids(["b", "a"]) == hash_prompt_ids(iter(["a", "b"]))
    assert hash_prompt_ids(["ab"]) != hash_prompt_ids(["a", "b"])


def test_truncation_at_every_byte_loses_only_the_last_row(tmp_path):
    rows = [answer(index) for index in range(1, 4)]
    shard = write_shard(tmp_path / "run_1shards_0.jsonl", *rows)
    content = shard.read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        shard.write_bytes(content[:length])
        kept = sum(end - 1 <= length for end in ends)  # a row without its line break is whole
        reader = ResponseReader([shard])
        assert [row["id"] for row in reader.read()] == [row["id"] for row in rows[:kept]]
        is_torn = length not in (0, *ends, *(end - 1 for end in ends))
        assert reader.torn == ([shard] if is_torn else [])


def test_zeros_that_a_crashed_machine_leaves_are_a_torn_line(tmp_path):
    shard = write_shard(tmp_path / "run_1shards_0.jsonl", answer(1), end=b"\0" * 100)
    assert finish_reasons([shard]) == {"000001": "stop"}


def test_a_row_with_odd_characters_comes_back(tmp_path):
    record = {**answer(1), "output": "line\u2028sep \x85 nul \0 half \ud800"}
    shard = write_shard(tmp_path / "run_1shards_0.jsonl", record)
    (row,) = ResponseReader([shard]).read()
    assert row["output"] == "line\u2028sep \x85 nul \0 half ?"


@pytest.mark.parametrize("row", [b"rubbish\n", b"\xff\n", b"[1]\n", b'{"id": "a"}\n'])
def test_a_damaged_row_in_the_middle_is_named(tmp_path, row):
    shard = tmp_path / "run_2shards_0.jsonl"
    shard.write_bytes(encode_row(answer(0)) + row + encode_row(answer(1)))
    with pytest.raises(UserError, match=r"run_2shards_0\.jsonl, row 2: not a response record"):
        finish_reasons([shard])


def test_blank_lines_and_a_byte_order_mark_are_left_out(tmp_path):
    shard = tmp_path / "run_1shards_0.jsonl"
    shard.write_bytes(b"\xef\xbb\xbf" + encode_row(answer(0)) + b"\n  \n" + encode_row(answer(1)))
    assert list(finish_reasons([shard])) == ["000000", "000001"]


def test_a_pointer_instead_of_the_file_is_named(tmp_path):
    shard = tmp_path / "run_1shards_0.jsonl"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"Git LFS pointer.*git lfs pull"):
        finish_reasons([shard])


def test_one_answer_is_taken_in_the_shards_order_whatever_their_age(tmp_path):
    first, second, third = (shard_path(tmp_path / "run", *n) for n in ((1, 0), (1, 0, 1), (2, 1)))
    write_shard(first, answer(0))
    write_shard(second, {**answer(0), "output": "another"}, answer(1))
    write_shard(third, answer(1), answer(2))
    for ages in ((1, 2, 3), (3, 2, 1)):
        for shard, age in zip((first, second, third), ages, strict=True):
            os.utime(shard, (age, age))
        reader = ResponseReader([third, first, second])
        assert [row["output"] for row in reader.read()] == [answer(i)["output"] for i in range(3)]
        assert (reader.repeated, reader.differing) == (2, 1)


def test_each_launch_writes_a_file_of_its_own(tmp_path):
    run = tmp_path / "run"
    for index in range(3):
        with ShardWriter(run, 2, 1) as writer:
            writer.append(answer(index))
        with ShardWriter(run, 2, 1):
            pass  # a launch that answers nothing leaves nothing
    names = ["run_2shards_1.jsonl", "run_2shards_1.1.jsonl", "run_2shards_1.2.jsonl"]
    assert [path.name for path in find_shards(run)] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*names, *(name.replace(".jsonl", ".status.json") for name in names)]
    )


def test_kills_at_random_moments_and_bytes_answer_every_prompt_once(tmp_path):
    """The whole life of a run: killed, cut and resumed with other group counts, 30 times."""
    draw = random.Random(5)
    run, prompts = tmp_path / "run", 400
    for life in range(30):
        size = draw.choice([1, 2, 3])
        worker = launch_worker(run, size, draw.randrange(size), prompts, pause=0.002)
        if life % 3:  # the others die while they start
            assert worker.stdout.readline().strip() == "ready"
        time.sleep(draw.uniform(0, 0.12))
        kill(worker)
        for shard in find_shards(run):
            if shard.stat().st_mtime > time.time() - 0.3:
                length = shard.stat().st_size
                os.truncate(shard, draw.randint(int(length * 0.9), length))
    for rank in range(3):
        worker, word = start_worker(run, 3, rank, prompts)
        assert word == "ready"
        assert finish(worker)[0] == 0
    assert check_complete(run, prompts) == 0


def test_a_second_launch_is_refused_and_a_dead_one_is_no_hindrance(tmp_path):
    run = tmp_path / "run"
    worker, _ = start_worker(run, 1, 0, 1000, pause=0.05)
    second, word = start_worker(run, 1, 0, 1000)
    assert word.startswith("refused") and f"process {worker.pid} on" in word and "since" in word
    assert finish(second)[0] == 1
    kill(worker)
    third, word = start_worker(run, 1, 0, 40)
    assert word == "ready" and finish(third)[0] == 0
    assert check_complete(run, 40) == 0


def test_a_stopped_process_still_counts_as_living(tmp_path):
    worker, _ = start_worker(tmp_path / "run", 1, 0, 1000, pause=0.05)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TryAgainError), ShardWriter(tmp_path / "run", 1, 0):
            pass
    finally:
        kill(worker)


def test_an_earlier_life_of_a_slurm_job_is_not_waited_for(tmp_path):
    """Both write, each its own file, and each prompt counts once."""
    run = tmp_path / "run"
    orphan, word = start_worker(run, 1, 0, 300, pause=0.003, env=LIFE)
    assert word == "ready"
    heir, word = start_worker(run, 2, 0, 300, env=NEXT_LIFE)
    assert word == "ready"
    assert finish(heir)[0] == 0
    late, word = start_worker(run, 2, 1, 300, env=LIFE)
    assert word.startswith("refused")
    assert finish(late)[0] == 1
    assert finish(orphan)[0] == 0
    assert check_complete(run, 300) > 0


@pytest.mark.parametrize("attempt", range(3))
def test_group_counts_that_start_at_once_do_not_share_prompts(tmp_path, attempt):
    """Groups of 2 and of 3 at once answered half of the prompts twice, once in a while."""
    run, prompts = tmp_path / "run", 120
    groups = [(size, rank) for size in (2, 3) for rank in range(size)]
    workers = [launch_worker(run, *group, prompts, pause=0.01) for group in groups]
    codes = [finish(worker)[0] for worker in workers]
    winners = {size for (size, _), code in zip(groups, codes, strict=True) if code == 0}
    assert set(codes) == {0, 1} and len(winners) == 1
    (size,) = winners
    for rank in range(size):  # those that were started too late or too early
        assert finish(launch_worker(run, size, rank, prompts))[0] == 0
    assert check_complete(run, prompts) == 0


def test_launches_look_at_each_other_in_turn_but_never_wait_for_ever(tmp_path, monkeypatch):
    """Two that look at once would both see nobody; one that is stopped then holds nobody up."""
    run = tmp_path / "run"
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    worker = launch_worker(run, 1, 0, 1)
    time.sleep(1)
    assert not find_shards(run)
    os.close(folder)
    assert finish(worker) == (0, "ready\n")
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    monkeypatch.setattr(shard_writer, "LOCK_SECONDS", 0.1)
    with ShardWriter(run, 1, 0) as writer:
        assert writer.path.exists()
    os.close(folder)


def test_groups_of_another_size_are_refused_while_they_live(tmp_path):
    run = tmp_path / "run"
    worker, _ = start_worker(run, 2, 1, 1000, pause=0.05)
    with pytest.raises(TryAgainError, match=r"run_2shards_1\.jsonl is being written"):
        ShardWriter(run, 3, 0).__enter__()
    assert not shard_path(run, 3, 0).exists()
    with ShardWriter(run, 2, 0):
        pass
    kill(worker)
    with ShardWriter(run, 3, 0):
        pass


def no_locks(file, operation):
    raise OSError(errno.ENOLCK, "no locks available")


def test_without_file_locks_work_is_done_twice_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = tmp_path / "run"
    with ShardWriter(run, 1, 0) as first, ShardWriter(run, 1, 0) as second:
        for writer in (first, second):
            writer.append(answer(0))
        second.append(answer(1))
    assert check_complete(run, 2) == 1


def test_a_launch_on_another_machine_counts_by_the_age_of_its_status(tmp_path, monkeypatch):
    """A time in the future, by a clock that goes wrong, must not keep a run from going on."""
    run, now = tmp_path / "run", time.time()
    shard = write_shard(shard_path(run, 1, 0), answer(0))
    status = {"state": "answering", "host": "node7", "process": 12}
    status_path(shard).write_text(json.dumps(status))
    assert is_living(shard)
    with pytest.raises(TryAgainError, match="process 12 on node7"), ShardWriter(run, 1, 0):
        pass
    for age in (61, -3600):
        os.utime(status_path(shard), (now - age, now - age))
        with ShardWriter(run, 1, 0):
            pass
    for change in ({"state": "ended"}, {"host": socket.gethostname()}):
        status_path(shard).write_text(json.dumps({**status, **change}))
        assert not is_living(shard)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff\0", b'{"state": 1}'])
def test_an_empty_or_torn_status_is_as_good_as_none(tmp_path, content):
    shard = write_shard(shard_path(tmp_path / "run", 1, 0), answer(0))
    status_path(shard).write_bytes(content)
    with ShardWriter(tmp_path / "run", 1, 0) as writer:
        writer.append(answer(1))
    assert check_complete(tmp_path / "run", 2) == 0


def test_the_status_is_renewed_while_a_launch_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "STATUS_SECONDS", 0.05)
    calls = Counter()
    with ShardWriter(tmp_path / "run", 1, 0) as writer:
        assert read_status(writer.path)["state"] == "loading"
        writer.append(answer(0))
        writer.show(lambda: {"prompts_answered": calls.update("n") or calls["n"]})
        time.sleep(0.5)
        status = read_status(writer.path)
        assert status["state"] == "answering" and status["prompts_answered"] > 2
        assert status["host"] == socket.gethostname() and status["process"] == os.getpid()
    status = read_status(writer.path)
    assert status["state"] == "ended" and status["finished"] is False


def test_a_full_disk_ends_with_the_files_name_and_keeps_what_was_there(tmp_path, monkeypatch):
    """The row that found no room is torn; the next launch answers its prompt."""
    whole_write = os.write

    def write(file, content):
        if len(content) < 60:
            return whole_write(file, content)
        whole_write(file, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = ShardWriter(tmp_path / "run", 1, 0)
    with pytest.raises(OSError, match="run_1shards_0") as caught, writer:
        writer.append({**answer(0), "output": ""})
        monkeypatch.setattr(os, "write", write)
        writer.append(answer(9))
    assert caught.value.filename == str(writer.path)
    assert list(finish_reasons([writer.path])) == ["000000"]
