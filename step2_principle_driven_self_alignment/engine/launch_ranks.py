"""The processes of one launch: their layout, their groups, and how they agree.

A launch of WORLD_SIZE processes (as torchrun or a Slurm launcher sets it) forms
WORLD_SIZE / tensor_parallel groups of neighbouring ranks; the first rank of a group leads it. The
ranks of a group share one model. Messages travel over gloo, through main memory, and tensors of a
group over NCCL where they lie on GPUs.

What decides the work is looked up by one rank and sent to the others: on a network share two
machines may see two states of one file. An error on one rank becomes everybody's error, so that
none waits for a message that never comes.
"""

import atexit
import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from user_error import EXIT_FAILED, UserError

if TYPE_CHECKING:  # torch takes seconds to import; a launch without work does without
    import torch

LOADING_TIMEOUT = timedelta(hours=3)  # between the first rank that has loaded and the last

Answer = TypeVar("Answer")


class OtherRankError(UserError):
    """Another rank met an error and reports it; this one ends in silence, with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


@dataclass(frozen=True)
class LaunchRanks:
    """This process's place in its launch; `tensor_parallel` ranks are a group."""

    rank: int
    world_size: int
    tensor_parallel: int

    @classmethod
    def from_environment(cls, tensor_parallel: int | None) -> "LaunchRanks":
        """Reads RANK and WORLD_SIZE; UserError where the ranks don't make whole groups."""
        rank, world_size = _read_number("RANK", "0"), _read_number("WORLD_SIZE", "1")
        if not 0 <= rank < world_size:
            raise UserError(f"RANK is {rank} and WORLD_SIZE {world_size}; ranks count from 0")
        parallel = world_size if tensor_parallel is None else tensor_parallel
        if parallel < 1 or world_size % parallel:
            raise UserError(
                f"{world_size} processes don't divide into groups of --tensor_parallel "
                f"{parallel}; give a divisor of the number of processes"
            )
        return cls(rank, world_size, parallel)

    @property
    def group_index(self) -> int:
        """Index of this rank's group inside the launch."""
        return self.rank // self.tensor_parallel

    @property
    def group_count(self) -> int:
        """Number of groups inside the launch."""
        return self.world_size // self.tensor_parallel

    @property
    def rank_in_group(self) -> int:
        """This rank's index inside its group."""
        return self.rank % self.tensor_parallel

    @property
    def leads_launch(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def leads_group(self) -> bool:
        """Whether this is the first rank of its group."""
        return self.rank_in_group == 0

    def decide(self, look: Callable[[], Answer]) -> Answer:
        """Rank 0 calls `look` and every rank returns its answer; an error stops all ranks."""
        return self._share(look, [0])[0]

    def ask_leaders(self, look: Callable[[], Answer]) -> list[Answer]:
        """The leader of each group calls `look` and every rank returns all their answers."""
        return self._share(look, list(range(0, self.world_size, self.tensor_parallel)))

    def join(self, device: "torch.device") -> None:
        """Forms the groups whose ranks share a model on devices of this type; again is allowed."""
        import torch.distributed as dist
        from fairscale.nn.model_parallel import initialize as model_parallel

        self._meet()
        crosses_gpus = device.type == "cuda" and self.tensor_parallel > 1
        backend = "nccl" if crosses_gpus else "gloo"
        if model_parallel.model_parallel_is_initialized():
            group = model_parallel.get_model_parallel_group()
            if (dist.get_world_size(group), dist.get_backend(group)) == (
                self.tensor_parallel,
                backend,
            ):
                return
            model_parallel.destroy_model_parallel()
        with contextlib.redirect_stdout(io.StringIO()):  # fairscale prints what it does
            model_parallel.initialize_model_parallel(
                self.tensor_parallel, model_parallel_backend=backend
            )

    def wait_until_loaded(self) -> None:
        """Waits for the slowest rank: NCCL's first collective would give up after ten minutes."""
        import torch.distributed as dist

        if self.world_size > 1:
            dist.monitored_barrier(timeout=LOADING_TIMEOUT)

    def agree(self, wish: bool, state: Sequence[int] = ()) -> bool:
        """The group leader's wish, on all ranks of its group.

        Raises RuntimeError unless all of them are in the same `state`.
        """
        told = self.tell_group([int(wish), *state])
        for rank, (_, *other) in enumerate(told):
            if other != told[0][1:]:
                raise RuntimeError(
                    f"the ranks of a group have come apart: rank {rank} of group "
                    f"{self.group_index} is at {other}, its leader at {told[0][1:]}; a device "
                    "computes wrongly, or the ranks run different versions"
                )
        return bool(told[0][0])

    def all_of_group(self, succeeded: bool) -> bool:
        """Whether all ranks of this group succeeded."""
        return all(success for (success,) in self.tell_group([int(succeeded)]))

    def tell_group(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of all ranks of this group, in the order of the ranks."""
        if self.tensor_parallel == 1:
            return [list(numbers)]
        import torch
        import torch.distributed as dist

        own = torch.tensor(numbers)
        everybody = [torch.empty_like(own) for _ in range(self.tensor_parallel)]
        dist.all_gather(everybody, own, group=_messages_of_group(self))
        return [told.tolist() for told in everybody]

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
        code = 0 if error is None else getattr(error, "exit_code", EXIT_FAILED)
        answers = [self._broadcast((answer, code), rank) for rank in askers]
        if error is not None:
            raise error
        codes = [code for _, code in answers if code]
        if codes:
            raise OtherRankError(codes[0])
        return [answer for answer, _ in answers]

    def _broadcast(self, message: Any, source: int) -> Any:
        import torch.distributed as dist

        self._meet()
        messages = [message]
        dist.broadcast_object_list(messages, src=source)
        return messages[0]

    def _meet(self) -> None:
        """Joins the launch that MASTER_ADDR and MASTER_PORT describe, once."""
        import torch.distributed as dist

        if not dist.is_initialized():
            # A process that is alone needs no address to meet at.
            store = dist.HashStore() if self.world_size == 1 else None
            dist.init_process_group("gloo", rank=self.rank, world_size=self.world_size, store=store)


@functools.cache
def _messages_of_group(ranks: LaunchRanks) -> Any:
    """A gloo group of the ranks that share a model; made by all ranks of the launch at once."""
    import torch.distributed as dist

    size, own = ranks.tensor_parallel, None
    for first in range(0, ranks.world_size, size):
        group = dist.new_group(list(range(first, first + size)), backend="gloo")
        own = group if first == ranks.rank - ranks.rank_in_group else own
    return own


def _read_number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r} in the environment; it must be a number") from None


def end_process(code: int) -> NoReturn:
    """Ends this process; one of several at once, without taking Python apart.

    fairscale keeps its process groups; gloo's threads may abort a process that takes them apart.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        atexit._run_exitfuncs()  # temporary folders, the log
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
