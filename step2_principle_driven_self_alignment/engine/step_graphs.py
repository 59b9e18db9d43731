"""CUDA graphs of the decoding step: without them, launching its small kernels takes longer."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

WARM_UP_RUNS = 2

# (tokens [batch], positions [batch]) -> logits [batch, vocabulary]
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class StepGraphs:
    """One graph for each of a few numbers of slots.

    A step runs in the smallest graph that it fits. The rows beyond its sequences belong to free
    slots, where nothing that they write is ever read. Before `capture`, and where that fails, the
    step's operators are launched one by one.
    """

    def __init__(self, step: Step, slots: int, device: torch.device) -> None:
        self._step = step
        self._batches = batch_sizes(slots)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._tokens = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._tokens)
        self._pool = None

    @property
    def captured(self) -> bool:
        """Whether steps run in graphs."""
        return bool(self._graphs)

    def capture(self, all_of_group: Callable[[bool], bool]) -> bool:
        """Captures all graphs, or none on any rank of the group; says whether it did.

        `all_of_group` tells of a rank's success whether all had it.
        """
        reason = None
        try:
            for batch in reversed(self._batches):  # the largest makes room for the others
                self._graphs[batch] = self._capture(batch)
        except RuntimeError as error:
            reason = error
        if not all_of_group(reason is None):
            logger.warning(
                "CUDA graphs could not be captured here, so steps are slower: %s",
                "on another rank" if reason is None else str(reason).partition("\n")[0],
            )
            self.drop()
        return self.captured

    def drop(self) -> None:
        """Goes on without graphs."""
        self._graphs.clear()

    def run(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """As the step itself; the logits are valid until the next run."""
        if not self._graphs:
            return self._step(tokens, positions)
        live = len(tokens)
        batch = next(size for size in self._batches if size >= live)
        self._tokens[:live] = tokens
        self._positions[:live] = positions
        self._positions[live:batch] = 0
        graph, logits = self._graphs[batch]
        graph.replay()
        return logits[:live]

    def _capture(self, batch: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        arguments = self._tokens[:batch], self._positions[:batch]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._step(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # NCCL's own thread looks at its events meanwhile, which is none of the capture's business.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._step(*arguments)
        self._pool = graph.pool()
        return graph, logits


def batch_sizes(largest: int) -> list[int]:
    """Ascending, each about two thirds of the next, so that few rows of a step are idle."""
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] * 2 // 3)
    return sizes[::-1]
