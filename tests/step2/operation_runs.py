"""Runs one of the engine's operations; Triton's also without a GPU, in a process of their own."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch
from engine.operations import Operations

# (head_dim, name, arguments) -> what the operation returns, and its tensors after it
Run = Callable[..., tuple[torch.Tensor, ...]]


def run(operations: Operations, name: str, *arguments: object) -> tuple[torch.Tensor, ...]:
    """What an operation returns, and copies of its tensors as it left them."""
    arguments = [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]
    returned = getattr(operations, name)(*arguments)
    returned = returned if isinstance(returned, tuple) else (returned,)
    return *returned, *(x for x in arguments if isinstance(x, torch.Tensor))


@contextmanager
def triton_runs() -> Iterator[Run]:
    """Kernels run on the GPU, or else in Triton's interpreter.

    Triton asks for TRITON_INTERPRET when it is imported: a variable, and a Triton, that no other
    test should meet.
    """
    if torch.cuda.is_available():
        yield _run_on_gpu
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_choose_interpreter) as process:
        yield lambda *call: process.submit(_run_kernels, *call).result()


def _choose_interpreter() -> None:
    os.environ["TRITON_INTERPRET"] = "1"


def _run_kernels(head_dim: int, name: str, *arguments: object) -> tuple[torch.Tensor, ...]:
    from engine.triton_operations import TritonOperations

    return run(TritonOperations(head_dim), name, *arguments)


def _run_on_gpu(head_dim: int, name: str, *arguments: object) -> tuple[torch.Tensor, ...]:
    arguments = [x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments]
    return tuple(x.cpu() for x in _run_kernels(head_dim, name, *arguments))
