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
        ranks = cls(int(os.environ.get("RANK", "0")), world_size, tensor_parallel or world_size)
        if world_size % ranks.tensor_parallel:
            raise ValueError(
                f"{world_size} processes don't divide into groups of --tensor_parallel "
                f"{ranks.tensor_parallel}; start a multiple of {ranks.tensor_parallel}"
            )
        return ranks

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
        """Rank 0 calls `look`; every rank returns its answer; an error stops all."""
        return self._gather(look if self.leads_launch else None)[0]

    def ask_leaders(self, look: Callable[[], Answer]) -> list[Answer]:
        """The leader of each group calls `look`; every rank returns all answers."""
        answers = self._gather(look if self.leads_group else None)
        return answers[:: self.tensor_parallel]

    def _gather(self, look: Callable[[], Any] | None) -> list[Any]:
        answer, error = None, None
        try:
            answer = look() if look is not None else None
        except Exception as own_error:
            if self.world_size == 1:
                raise
            error = own_error
        if self.world_size == 1:
            return [answer]
        return self._exchange(answer, error)

    def _exchange(self, answer: Any, error: Exception | None) -> list[Any]:
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, (answer, error), group=self._messages)
        if error is not None:
            raise error
        for rank, (_, rank_error) in enumerate(gathered):
            if rank_error is not None:
                raise OtherRankError(f"rank {rank}: {rank_error}")
        return [rank_answer for rank_answer, _ in gathered]

    @cached_property
    def _messages(self) -> Any:
        """A process group for Python objects: they travel through main memory, not the GPUs."""
        import torch.distributed as dist
        from engine.tensor_parallel import init_distributed

        init_distributed()
        return dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else dist.group.WORLD
