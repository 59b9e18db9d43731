"""Shards through kills, torn bytes, takeovers and changed group counts, with real processes."""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from response_shards import (
    ShardWriter,
    find_shards,
    hash_prompt_ids,
    parse_shard_name,
    read_ids,
    read_shard,
    repair_shard,
    run_name,
    shard_path,
)
from shard_lock import ShardLock, ShardOwnedError, ShardTakenOverError, lock_path, read_owner

WORKER = Path(__file__).parent / "shard_worker.py"
LIFE = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "0"}
NEXT_LIFE = {**LIFE, "SLURM_RESTART_COUNT": "1"}


def start_worker(name, size, rank, prompts, pause=0.0, env=None):
    """Starts a worker and waits for its first word; returns the process and the word."""
    worker = launch_worker(name, size, rank, prompts, pause, env)
    return worker, worker.stdout.readline().strip()


def launch_worker(name, size, rank, prompts, pause=0.0, env=None):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(name), str(size), str(rank), str(prompts), str(pause)],
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


def rows_of_run(name):
    return [record for shard in find_shards(name) for _, record in read_shard(shard)]


def record_of(index):
    return {"id": f"{index:06}", "output": f"räumlich {index}" * 5, "finish_reason": "eos"}


def test_names_round_trip(tmp_path):
    name = run_name(tmp_path / "self_align[1].jsonl")
    shard = shard_path(name, 12, 3)
    assert shard.name == "self_align[1]_12shards_3.jsonl"
    assert parse_shard_name(shard) == (name, 12, 3)
    for other in ("self_align.jsonl", "x_4shards_4.jsonl", "x_0shards_0.jsonl", "x_4shards_0.json"):
        assert parse_shard_name(tmp_path / other) is None


def test_shards_are_found_in_the_order_of_numbers(tmp_path):
    name = tmp_path / "run"
    for size, rank in [(12, 10), (12, 2), (3, 0)]:
        shard_path(name, size, rank).touch()
    for stranger in (
        "run_12shards_2.jsonl.lock",
        "run_12shards_2.jsonl.torn",
        "rerun_3shards_0.jsonl",
    ):
        (tmp_path / stranger).touch()
    assert [parse_shard_name(path)[1:] for path in find_shards(name)] == [(3, 0), (12, 2), (12, 10)]


def test_ids_hash_does_not_depend_on_order():
    assert hash_prompt_ids(["b", "a"]) == hash_prompt_ids(iter(["a", "b"]))
    assert hash_prompt_ids(["ab"]) != hash_prompt_ids(["a", "b"])


def test_truncation_at_every_byte_loses_only_the_last_row(tmp_path):
    whole = tmp_path / "run_1shards_0.jsonl"
    with ShardWriter(whole) as writer:
        for index in range(3):
            writer.append({"id": f"{index:06}", "output": "ä" * index})
    content = whole.read_bytes()
    rows = [row for _, row in read_shard(whole)]
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        shard = tmp_path / "cut_1shards_0.jsonl"
        shard.write_bytes(content[:length])
        kept = sum(end - 1 <= length for end in ends)  # a row without its line break is whole
        assert [row for _, row in read_shard(shard)] == rows[:kept]
        assert list(read_ids(shard)) == [f"{i:06}" for i in range(kept)]
        repaired = repair_shard(shard)
        assert list(repaired.finish_reasons) == [f"{i:06}" for i in range(kept)]
        assert shard.read_bytes() == content[: ends[kept - 1] if kept else 0]
        torn = shard.with_name(shard.name + ".torn")
        last_end = ends[kept - 1] if kept else 0
        saved = torn.read_bytes().rstrip(b"\n") if torn.exists() else b""
        assert saved == content[last_end:length]
        torn.unlink(missing_ok=True)


def test_a_row_with_odd_characters_comes_back(tmp_path):
    record = {"id": "a", "output": "line\u2028sep \x85 nul \0 half \ud800", "finish_reason": "eos"}
    shard = tmp_path / "run_1shards_0.jsonl"
    with ShardWriter(shard) as writer:
        writer.append(record)
    assert [row for _, row in read_shard(shard)] == [record]


def test_a_damaged_row_in_the_middle_is_named(tmp_path):
    shard = tmp_path / "run_2shards_0.jsonl"
    shard.write_text(json.dumps(record_of(0)) + "\nrubbish\n" + json.dumps(record_of(1)) + "\n")
    with pytest.raises(ValueError, match=r"run_2shards_0\.jsonl, row 2"):
        list(read_shard(shard))
    with pytest.raises(ValueError, match="row 2"):
        list(read_ids(shard))
    with ShardWriter(shard) as writer:  # the owner sets it aside and answers again
        assert set(writer.finish_reasons) == {"000000", "000001"}
    assert "rubbish" in shard.with_name(shard.name + ".torn").read_text()


def test_kills_at_random_moments_and_bytes_answer_every_prompt_once(tmp_path):
    """The whole life of a run: killed, cut and resumed with other group counts, 20 times."""
    draw = random.Random(5)
    name, prompts = tmp_path / "run", 400
    for life in range(30):
        size = draw.choice([1, 2, 3])
        rank = draw.randrange(size)
        worker = launch_worker(name, size, rank, prompts, pause=0.002)
        if life % 3:  # the others die while they start, repair and lock
            assert worker.stdout.readline().strip() == "ready"
        time.sleep(draw.uniform(0, 0.12))
        kill(worker)
        shard = shard_path(name, size, rank)
        if shard.exists():
            length = shard.stat().st_size
            os.truncate(shard, draw.randint(int(length * 0.9), length))
    for rank in range(3):
        worker, word = start_worker(name, 3, rank, prompts)
        assert word == "ready"
        assert finish(worker)[0] == 0
    ids = [record["id"] for record in rows_of_run(name)]
    assert sorted(ids) == [f"{index:06}" for index in range(prompts)]
    assert all(r["output"] == f"é{int(r['id'])} " * (int(r["id"]) % 50) for r in rows_of_run(name))


def test_a_second_process_is_refused_and_a_dead_one_is_not(tmp_path):
    name = tmp_path / "run"
    worker, _ = start_worker(name, 1, 0, 1000, pause=0.05)
    second, word = start_worker(name, 1, 0, 1000)
    assert word.startswith("refused") and f"process {worker.pid} on" in word and "since" in word
    assert finish(second)[0] == 1
    kill(worker)
    third, word = start_worker(name, 1, 0, 40)
    assert word == "ready" and finish(third)[0] == 0
    assert not lock_path(shard_path(name, 1, 0)).exists()
    assert len(set(read_ids(shard_path(name, 1, 0)))) >= 40


def test_a_stopped_process_still_counts_as_living(tmp_path):
    worker, _ = start_worker(tmp_path / "run", 1, 0, 1000, pause=0.05)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ShardOwnedError), ShardWriter(shard_path(tmp_path / "run", 1, 0)):
            pass
    finally:
        kill(worker)


def test_an_orphan_of_an_earlier_life_is_fenced_off(tmp_path):
    """A requeued job takes over at once, and what the orphan still does leaves no trace."""
    name = tmp_path / "run"
    orphan, word = start_worker(name, 1, 0, 100000, pause=0.001, env=LIFE)
    assert word == "ready"
    time.sleep(0.2)
    heir, word = start_worker(name, 1, 0, 600, pause=0.001, env=NEXT_LIFE)
    assert word == "ready"
    status, words = finish(orphan)
    assert status == 1 and "lost" in words and f"process {heir.pid}" in words
    assert finish(heir)[0] == 0
    ids = list(read_ids(shard_path(name, 1, 0)))
    assert len(ids) == len(set(ids)) >= 600


def test_an_orphan_does_not_take_the_shard_back(tmp_path):
    name = tmp_path / "run"
    heir, _ = start_worker(name, 1, 0, 100000, pause=0.01, env=NEXT_LIFE)
    orphan, word = start_worker(name, 1, 0, 100000, env=LIFE)
    assert "later life of this Slurm job" in word
    assert finish(orphan)[0] == 1
    assert heir.poll() is None
    kill(heir)


def test_takeovers_many_times_under_fire(tmp_path):
    """Each life takes over from a living one in the middle of its appends."""
    name, prompts = tmp_path / "run", 2500
    workers = []
    for life in range(6):
        env = {**LIFE, "SLURM_RESTART_COUNT": str(life)}
        worker, word = start_worker(name, 1, 0, prompts, env=env, pause=0.0005)
        assert word == "ready"
        workers.append(worker)
        time.sleep(0.05)
    assert [finish(worker)[0] for worker in workers] == [1, 1, 1, 1, 1, 0]
    ids = list(read_ids(shard_path(name, 1, 0)))
    assert sorted(ids) == [f"{index:06}" for index in range(prompts)]


def test_a_fenced_writer_stops_even_without_file_locks(tmp_path):
    """On file systems without flock, the replaced shard keeps the orphan's rows away."""
    shard = tmp_path / "run_1shards_0.jsonl"
    with ShardWriter(shard) as writer:
        writer.append(record_of(0))
        repair_shard(shard)
        with pytest.raises(ShardTakenOverError):
            writer.append(record_of(1))
    assert list(read_ids(shard)) == ["000000"]


def test_a_file_system_without_locks_does(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    shard = tmp_path / "run_1shards_0.jsonl"
    with ShardWriter(shard) as writer:
        writer.append(record_of(0))
        with pytest.raises(ShardOwnedError), ShardWriter(shard):
            pass
    assert read_ids(shard) == ["000000"]


def test_groups_of_another_size_are_refused_while_they_live(tmp_path):
    name = tmp_path / "run"
    worker, _ = start_worker(name, 2, 1, 1000, pause=0.05)
    with pytest.raises(ShardOwnedError, match=r"another size.*run_2shards_1"):
        ShardWriter(shard_path(name, 3, 0)).__enter__()
    assert not shard_path(name, 3, 0).exists()
    assert not lock_path(shard_path(name, 3, 0)).exists()
    kill(worker)
    with ShardWriter(shard_path(name, 3, 0)):
        assert not lock_path(shard_path(name, 2, 1)).exists()


def test_an_orphan_of_another_group_size_is_fenced_off(tmp_path):
    name = tmp_path / "run"
    orphan, _ = start_worker(name, 2, 1, 100000, pause=0.001, env=LIFE)
    heir, word = start_worker(name, 3, 0, 30, env=NEXT_LIFE)
    assert word == "ready"
    assert finish(orphan)[0] == 1
    assert finish(heir)[0] == 0


def test_an_owner_on_another_machine_counts_by_its_heartbeat(tmp_path):
    shard = tmp_path / "run_1shards_0.jsonl"
    lock = ShardLock(shard)
    lock.acquire()
    content = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps({**content, "machine": "elsewhere", "host": "node7"}))
    with pytest.raises(ShardOwnedError, match="node7"), ShardWriter(shard):
        pass
    os.utime(lock.path, (time.time() - 61, time.time() - 61))
    with ShardWriter(shard) as writer:
        assert read_owner(shard)[0].machine != "elsewhere"
        with pytest.raises(ShardTakenOverError):
            lock.refresh({})
        lock.release()  # must not remove the other's lock
        writer.append(record_of(0))


def test_the_heartbeat_refreshes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("response_shards.HEARTBEAT_SECONDS", 0.05)
    shard = tmp_path / "run_1shards_0.jsonl"
    with ShardWriter(shard) as writer:
        writer.status = lambda: {"answered": 7}
        os.utime(lock_path(shard), (0, 0))
        time.sleep(0.5)
        owner, last_refresh = read_owner(shard)
        assert owner.status == {"answered": 7} and time.time() - last_refresh < 10


def test_a_damaged_lock_file_is_taken_over(tmp_path):
    shard = tmp_path / "run_1shards_0.jsonl"
    for content in (b"", b"{", b"[1]", b'{"token": 1}'):
        lock_path(shard).write_bytes(content)
        with ShardWriter(shard) as writer:
            writer.append(record_of(0))
    assert len(list(read_ids(shard))) == 4
