"""The layout of a launch's processes, and what they tell each other."""

import os
import subprocess
import sys

import pytest
from engine.launch_ranks import LaunchRanks
from user_error import UserError


@pytest.mark.parametrize(
    ("environment", "degree", "message"),
    [
        ({"WORLD_SIZE": "abc"}, None, "WORLD_SIZE is 'abc' in the environment; it must be a num"),
        ({"RANK": "", "WORLD_SIZE": "2"}, None, "RANK is '' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None, "RANK is 2 and WORLD_SIZE 2; ranks count from 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, None, "RANK is 0 and WORLD_SIZE 0"),
        ({"RANK": "0", "WORLD_SIZE": "6"}, 4, "6 processes don't divide into groups of --tensor_p"),
        ({}, 2, "1 processes don't divide into groups of --tensor_parallel 2"),
    ],
)
def test_an_environment_that_makes_no_launch_is_refused(monkeypatch, environment, degree, message):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        LaunchRanks.from_environment(degree)


def test_six_processes_in_groups_of_two(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    places = []
    for rank in range(6):
        monkeypatch.setenv("RANK", str(rank))
        ranks = LaunchRanks.from_environment(2)
        assert ranks.group_count == 3
        places.append((ranks.group_index, ranks.rank_in_group, ranks.leads_group))
    assert places == [(g, i, i == 0) for g in range(3) for i in range(2)]


def test_a_process_that_is_alone_meets_nobody():
    alone = LaunchRanks(0, 1, 1)
    assert alone.decide(lambda: 7) == 7 and alone.ask_leaders(lambda: 7) == [7]
    assert alone.tell_group([3]) == [[3]] and alone.agree(True, [3]) and alone.all_of_group(True)
    alone.wait_until_loaded()
    alone.leave()


FOUR = """
import os, sys
import torch
from engine.launch_ranks import LaunchRanks, OtherRankError
from user_error import TryAgainError, UserError

def fail(kind):
    raise kind("no such prompts")

def main(rank):
    os.environ["RANK"] = str(rank)
    ranks = LaunchRanks.from_environment(2)
    assert ranks.decide(lambda: f"rank {rank}") == "rank 0"
    assert ranks.ask_leaders(lambda: rank) == [0, 2]
    for kind, code in ((UserError, 2), (TryAgainError, 1), (OSError, 1)):
        try:
            ranks.decide(lambda: fail(kind))
        except (OtherRankError if rank else kind) as error:
            assert str(error) == ("" if rank else "no such prompts"), "one rank says it"
            assert not rank or error.exit_code == code
        else:
            raise AssertionError("nothing was raised")
    ranks.join(torch.device("cpu"))
    ranks.join(torch.device("cpu"))
    ranks.wait_until_loaded()
    assert ranks.tell_group([rank, 5]) == [[rank // 2 * 2, 5], [rank // 2 * 2 + 1, 5]]
    assert ranks.agree(rank in (1, 2), [8]) == (rank >= 2), "the leader's wish decides"
    assert ranks.all_of_group(rank != 3) == (rank < 2)
    if rank >= 2:
        try:
            ranks.agree(False, [rank])
        except RuntimeError as error:
            assert "rank 1 of group 1 is at [3], its leader at [2]" in str(error), error
        else:
            raise AssertionError("they differ")
    ranks.leave()

children = []
for rank in range(4):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            main(rank)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
def test_four_processes_in_groups_of_two_agree(repository, free_port):
    launch = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    run = subprocess.run(
        [sys.executable, "-c", FOUR],
        cwd=repository / "step2_principle_driven_self_alignment",
        env={**os.environ, **launch, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
