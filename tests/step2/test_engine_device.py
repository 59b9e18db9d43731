"""Which device a run takes: never a CPU by accident, never a GPU that can't do the work."""

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
    assert choose_dtype("auto", "float32", CPU) == torch.float32
    with pytest.raises(UserError, match="--dtype half; choose auto, float32, bfloat16, float16"):
        choose_dtype("half", "float32", CPU)


def test_some_memory_of_a_gpu_stays_free():
    assert gpu_reserve(24 * GIB) == 1.5 * GIB
    assert gpu_reserve(80 * GIB) == 4 * GIB
