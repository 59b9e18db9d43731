"""The device that a process computes on: which one, how much memory, which type of number."""

import logging
import os
import re
from pathlib import Path

import torch
from user_error import UserError

HALVES = ("bfloat16", "float16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OLD_GPU_WHEELS = "https://download.pytorch.org/whl/cu126"  # the last that know GPUs before sm_75
FLASH_CAPABILITY = (8, 0)  # the first that has bfloat16 and runs FlashAttention
SMALLEST_RESERVE, RESERVED_SHARE = 3 * 2**29, 0.05
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
DEVICE_FILES = Path("/dev")

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """`auto` is this process's GPU, or the CPU of a machine that has none.

    UserError if the device isn't there, or is a GPU that this PyTorch can't use: a run that falls
    back to the CPU by accident is a hundred times slower.
    """
    if name not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", name):
        raise UserError(f"--device {name}; choose auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not has_gpu()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: there is no CUDA device here; give --device cpu")
    index = name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0")
    visible = torch.cuda.device_count()
    if int(index) >= visible:
        raise UserError(
            f"--device {name}: this process would take GPU {index}, and {visible} can be seen "
            "here; start one process for each GPU"
        )
    device = torch.device("cuda", int(index))
    torch.cuda.set_device(device)
    check_capability(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    # Sums of split products stay in float32.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return device


def has_gpu() -> bool:
    """Whether PyTorch can use a GPU; UserError where there is one that it can't use."""
    if torch.cuda.is_available():
        return True
    files = sorted(DEVICE_FILES.glob("nvidia[0-9]*"))
    if files and torch.version.cuda is not None:
        raise UserError(
            f"{files[0]} is a GPU, and PyTorch {torch.__version__} (CUDA {torch.version.cuda}) "
            "can't use it: the driver may be too old for it (nvidia-smi tells), or "
            "CUDA_VISIBLE_DEVICES hides it; give --device cpu to compute without it"
        )
    return False


def check_capability(name: str, capability: tuple[int, int]) -> None:
    """UserError if this PyTorch has no code for a GPU as old as that."""
    known = [int(arch[3:]) for arch in torch.cuda.get_arch_list() if re.fullmatch(r"sm_\d+", arch)]
    if known and capability[0] * 10 + capability[1] < min(known):
        raise UserError(
            f"{name} (compute capability {capability[0]}.{capability[1]}) is too old for this "
            f"PyTorch; install torch=={torch.__version__.partition('+')[0]} from {OLD_GPU_WHEELS} "
            "and give --dtype float16"
        )


def runs_flash_attention(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether PyTorch's FlashAttention kernels take these numbers here."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
        and dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= 256
    )


def choose_dtype(name: str, checkpoint_dtype: str, device: torch.device) -> torch.dtype:
    """The type of weights and keys/values: as named, or for `auto` what the device is best at.

    `auto` is the checkpoint's own on a GPU; on a CPU bfloat16 for a checkpoint in 16 bits where the
    CPU multiplies it natively, else float32. UserError for bfloat16 on a GPU that has none.
    """
    if name != "auto" and name not in DTYPES:
        raise UserError(f"--dtype {name}; choose auto, {', '.join(DTYPES)}")
    if device.type != "cuda":
        if name == "auto" and checkpoint_dtype in HALVES and multiplies_bfloat16():
            return torch.bfloat16
        return DTYPES.get(name, torch.float32)
    dtype = DTYPES.get(checkpoint_dtype if name == "auto" else name, torch.bfloat16)
    capability = torch.cuda.get_device_capability(device)
    if dtype == torch.bfloat16 and capability < FLASH_CAPABILITY:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16; give --dtype float16"
        )
    return dtype


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16, several times as fast as float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def choose_threads() -> None:
    """Computes on no more CPU cores than this process may use, and says if others use them too.

    PyTorch knows the cores of the machine that a process may run on, not a container's quota, nor
    the other processes of this launch. OMP_NUM_THREADS stays as the user has set it.
    """
    cores = _usable_cores()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(cores / processes))))
    load = os.getloadavg()[0]
    if load > cores and torch.get_num_threads() > 1:
        logger.warning(
            "other programs keep these %.3g cores busy (load average %.1f): threads that wait for "
            "each other can be ten times slower; OMP_NUM_THREADS=1 or OMP_WAIT_POLICY=passive help",
            *(cores, load),
        )


def _usable_cores() -> float:
    cores = float(len(os.sched_getaffinity(0)))
    if CGROUP_QUOTA.is_file():
        quota, period = CGROUP_QUOTA.read_text().split()
        cores = cores if quota == "max" else min(cores, int(quota) / int(period))
    return cores


def available_memory(device: torch.device) -> int:
    """Bytes that this process may use: what its GPU has, or its share of the machine's memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free - gpu_reserve(total)
    limits = [_linux_available()]
    if CGROUP_LIMIT.is_file() and CGROUP_LIMIT.read_text().strip() != "max":
        limits.append(int(CGROUP_LIMIT.read_text()))
    processes = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1")
    return min(limits) // int(processes)


def gpu_reserve(total: int) -> int:
    """Bytes of a GPU that stay free: for NCCL, CUDA graphs, cuBLAS, and what lies in pieces."""
    return max(SMALLEST_RESERVE, int(total * RESERVED_SHARE))


def prefill_tokens(device: torch.device) -> int:
    """Tokens of the prefix, or of new prompts, that go through the model at once."""
    return 2048 if device.type == "cuda" else 512


def _linux_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo does not tell the available memory")
