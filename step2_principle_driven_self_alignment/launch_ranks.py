"""The processes of one launch: who leads which group, and how they agree.

A launch of WORLD_SIZE processes (as torchrun or a Slurm launcher sets it) forms
WORLD_SIZE / tensor_parallel groups of neighbouring ranks; the first rank of a group leads it.
What decides the work is looked up by one rank and sent to the others: on a network share two
machines may see two states of one file. An error on one rank becomes everybody's error, so that
none waits for a message that never comes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class OtherRankError(RuntimeError):
    """Another rank met an error; that rank reports it."""


@dataclass(frozen=True)
class LaunchRanks:
    """This process's place in its launch."""

    rank: int
    world_size: int
    tensor_parallel: int

    @classmethod
    def from_environment(cls, tensor_parallel: int | None) -> "LaunchRanks":
        """Reads RANK and WORLD_SIZE; ValueError where the ranks don't make whole groups."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        parallel = world_size if tensor_parallel is None else tensor_parallel
        if parallel < 1 or world_size % parallel:
            raise ValueError(
                f"{world_size} processes don't divide into groups of --tensor_parallel "
                f"{parallel}; give a divisor of the number of processes"
            )
        return cls(int(os.environ.get("RANK", "0")), world_size, parallel)

    @property
    def group_index(self) -> int:
        """Index of this rank's group inside the launch."""
        return self.rank // self.tensor_parallel

    @property
    def group_count(self) -> int:
        """Number of groups inside the launch."""
        return self.world_size // self.tensor_parallel

    @property
    def leads_launch(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def leads_group(self) -> bool:
        """Whether this is the first rank of its group."""
        return self.rank % self.tensor_parallel == 0

    def decide(self, look: Callable[[], Answer]) -> Answer:
        """Rank 0 calls `look` and every rank returns its answer; an error stops all ranks."""
        return self._share(look, [0])[0]

    def ask_leaders(self, look: Callable[[], Answer]) -> list[Answer]:
        """The leader of each group calls `look` and every rank returns all their answers."""
        return self._share(look, list(range(0, self.world_size, self.tensor_parallel)))

    def leave(self) -> None:
        """Ends the process groups: gloo's threads may abort a process that exits with them."""
        if self.world_size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()

    def _share(self, look: Callable[[], Any], askers: list[int]) -> list[Any]:
        """Runs `look` on the ranks `askers`; the list of their answers, on every rank."""
        if self.world_size == 1:
            return [look()]
        answer, error = None, None
        if self.rank in askers:
            try:
                answer = look()
            except Exception as own_error:
                error = own_error
        answers = [self._broadcast((answer, str(error) if error else ""), rank) for rank in askers]
        if error is not None:
            raise error
        for rank, (_, message) in zip(askers, answers, strict=True):
            if message:
                raise OtherRankError(f"rank {rank}: {message}")
        return [answer for answer, _ in answers]

    def _broadcast(self, message: Any, source: int) -> Any:
        import torch.distributed as dist

        messages = [message]
        dist.broadcast_object_list(messages, src=source, group=self._messages)
        return messages[0]

    @cached_property
    def _messages(self) -> Any:
        """A process group for Python objects: they travel through main memory, not the GPUs."""
        import torch.distributed as dist
        from engine.tensor_parallel import init_distributed

        init_distributed()
        return dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else dist.group.WORLD
