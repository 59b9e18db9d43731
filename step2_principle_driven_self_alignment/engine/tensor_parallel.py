"""Process groups: tensor-parallel ranks within a group, data-parallel groups beside each other."""

import contextlib
import io
import os
import re
from dataclasses import dataclass

import torch
import torch.distributed as dist
from fairscale.nn.model_parallel import initialize as model_parallel


@dataclass(frozen=True)
class ParallelRanks:
    """Where this process stands among the tensor-parallel ranks of its group."""

    rank: int
    ranks: int
    group_index: int
    group_count: int

    @property
    def is_group_leader(self) -> bool:
        """Whether this process speaks for its group."""
        return self.rank == 0


def init_distributed(device: str = "auto") -> None:
    """Joins the launch that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, once.

    Without them the process is alone. nccl between CUDA devices, gloo otherwise.
    """
    if dist.is_initialized():
        return
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    # A process that is alone needs no address to meet at.
    store = dist.HashStore() if world == 1 else None
    dist.init_process_group(backend, rank=rank, world_size=world, store=store)


def choose_device(device: str) -> torch.device:
    """`auto` is this process's GPU, or the CPU; ValueError if the device isn't there."""
    if device not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"--device {device}; choose auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: there is no CUDA device here; give --device cpu")
    if device != "cuda":
        return torch.device(device)
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(chosen)
    return chosen


def tensor_parallel_degree(requested: int | None) -> int:
    """Ranks in a group: as requested, or all of the launch; ValueError if they don't divide."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    degree = world if requested is None else requested
    if degree < 1 or world % degree:
        raise ValueError(
            f"{world} processes don't divide into groups of {degree}; give --tensor_parallel a "
            "divisor of the number of processes"
        )
    return degree


def join_group(requested: int | None, device: str) -> ParallelRanks:
    """Forms the tensor-parallel groups of the launch; a second call returns the same ones."""
    degree = tensor_parallel_degree(requested)
    init_distributed(device)
    if model_parallel.model_parallel_is_initialized():
        if model_parallel.get_model_parallel_world_size() != degree:
            model_parallel.destroy_model_parallel()
            _initialize_quietly(degree)
    else:
        _initialize_quietly(degree)
    rank, world = dist.get_rank(), dist.get_world_size()
    return ParallelRanks(rank % degree, degree, rank // degree, world // degree)


def agree(value: bool, ranks: ParallelRanks, device: torch.device) -> bool:
    """The group leader's value, on all ranks of its group."""
    if ranks.ranks == 1:
        return value
    flag = torch.tensor([int(value)], device=device)
    leader = model_parallel.get_model_parallel_src_rank()
    dist.broadcast(flag, leader, group=model_parallel.get_model_parallel_group())
    return bool(flag.item())


def _initialize_quietly(degree: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # fairscale prints what it does
        model_parallel.initialize_model_parallel(degree)
