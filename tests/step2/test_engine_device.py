"""Which device a run takes: never a CPU by accident, never a GPU that can't do the work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine import device
from engine.device import check_capability, choose_device, choose_dtype, gpu_reserve
from user_error import UserError

CPU = torch.device("cpu")
GIB = 2**30
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@no_gpu
def test_a_machine_without_a_gpu_takes_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"no CUDA device here; give --device cpu"):
        choose_device("cuda")


@no_gpu
def test_a_gpu_that_pytorch_cannot_use_is_told_and_not_passed_over(monkeypatch, tmp_path):
    """Pins runs on a GPU node with an old driver, which computed on the CPU without a word."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"nvidia0 is a GPU, .* can't use it: .*give --device cpu"):
        choose_device("auto")
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for CPUs was wanted
    assert choose_device("auto") == CPU


def test_a_gpu_too_old_for_this_pytorch_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "compute_120"])
    check_capability("Tesla T4", (7, 5))
    check_capability("NVIDIA H100", (9, 0))
    with pytest.raises(UserError, match=r"V100 .*7\.0.*torch==2.*whl/cu126 .*--dtype float16"):
        check_capability("Tesla V100", (7, 0))


@pytest.mark.parametrize("name", ["tpu", "cuda0", "gpu"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UserError, match=f"--device {name}; choose auto, cpu or cuda"):
        choose_device(name)


def test_the_type_of_number_on_a_cpu():
    assert choose_dtype("bfloat16", "float32", CPU) == torch.bfloat16
    native = device.multiplies_bfloat16()
    flags = re.search(r"^flags.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert native == bool(flags and re.search("avx512_bf16|amx_bf16", flags[0]))
    for checkpoint, expected in (
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16 if native else torch.float32),
        ("float16", torch.bfloat16 if native else torch.float32),
    ):
        assert choose_dtype("auto", checkpoint, CPU) == expected
        assert choose_dtype("float32", checkpoint, CPU) == torch.float32
    with pytest.raises(UserError, match="--dtype half; choose auto, float32, bfloat16, float16"):
        choose_dtype("half", "float32", CPU)


THREADS = """
import logging, os, sys, torch
from engine import device
logging.basicConfig(stream=sys.stdout)
device.CGROUP_QUOTA = device.Path(sys.argv[1])
os.sched_getaffinity = lambda _: range(8)
os.getloadavg = lambda: (float(sys.argv[2]), 0, 0)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "8")))
device.choose_threads()
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("quota", "environment", "load", "threads", "warns"),
    [
        ("max 100000", {}, 0.5, 8, False),
        ("250000 100000", {}, 0.5, 2, False),
        ("50000 100000", {}, 0.5, 1, False),
        ("max 100000", {"LOCAL_WORLD_SIZE": "4"}, 0.5, 2, False),
        ("250000 100000", {"OMP_NUM_THREADS": "3"}, 0.5, 3, False),
        ("max 100000", {}, 9.5, 8, True),
        ("50000 100000", {}, 9.5, 1, False),  # a single thread waits for nobody
    ],
)
def test_threads_are_no_more_than_the_cores_that_a_process_may_use(
    repository, tmp_path, quota, environment, load, threads, warns
):
    (tmp_path / "cpu.max").write_text(quota)
    names = ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", THREADS, str(tmp_path / "cpu.max"), str(load)],
        cwd=repository / "step2_principle_driven_self_alignment",
        env=clean | environment,
        capture_output=True,
        text=True,
    )
    *said, count = run.stdout.splitlines()
    assert int(count) == threads, run.stderr
    assert bool(said) == warns
    if warns:
        assert "keep these 8 cores busy (load average 9.5)" in said[0]


def test_some_memory_of_a_gpu_stays_free():
    assert gpu_reserve(24 * GIB) == 1.5 * GIB
    assert gpu_reserve(80 * GIB) == 4 * GIB
