"""Which examples make up which step, and which process sees them.

An epoch is one shuffle of all examples, cut into steps of `examples_per_step`; the last step takes
what is left. Nothing is repeated and nothing dropped. A step's examples are dealt to its
micro-batches so that these hold about equally many tokens. The plan depends on seed and epoch
alone, and the examples of a step not on the number of processes.
"""

from collections.abc import Iterator, Sequence

import numpy as np


class BatchPlan:
    """Yields, for one process, the example indices of each micro-batch of the current epoch.

    Usable as `batch_sampler` of a torch DataLoader. A micro-batch may be empty in the last step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        micro_batch_size: int,
        accumulation_steps: int,
        processes: int = 1,
        process_index: int = 0,
        seed: int = 42,
        shuffle: bool = True,
    ) -> None:
        self.lengths = list(lengths)
        self.micro_batches_per_step = accumulation_steps * processes
        self.examples_per_step = micro_batch_size * self.micro_batches_per_step
        self.processes, self.process_index = processes, process_index
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-len(self.lengths) // self.examples_per_step)

    @property
    def batch_sampler(self) -> "BatchPlan":
        """Itself: Trainer hands `set_epoch` to what lies one level below the loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.micro_batches_per_step // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(len(self.lengths))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for start in range(0, len(order), self.examples_per_step):
            dealt = self._deal(order[start : start + self.examples_per_step].tolist())
            yield from dealt[self.process_index :: self.processes]

    def _deal(self, indices: list[int]) -> list[list[int]]:
        # Longest first, to and fro: counts differ by one at most, and token counts stay close.
        indices.sort(key=lambda index: (-self.lengths[index], index))
        count = self.micro_batches_per_step
        micro_batches: list[list[int]] = [[] for _ in range(count)]
        for turn, index in enumerate(indices):
            round_number, place = divmod(turn, count)
            micro_batches[place if round_number % 2 == 0 else count - 1 - place].append(index)
        return micro_batches
