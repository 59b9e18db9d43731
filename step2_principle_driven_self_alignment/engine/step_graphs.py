"""CUDA graphs of the decoding step: without them, launching its small kernels takes longer."""

from collections.abc import Callable

import torch

WARM_UP_RUNS = 2

# (tokens [batch], positions [batch]) -> logits [batch, vocabulary]
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class StepGraphs:
    """One graph for each of a few numbers of slots, captured when first needed.

    A step runs in the smallest graph that it fits. The rows beyond its sequences belong to free
    slots, where nothing that they write is ever read.
    """

    def __init__(self, step: Step, slots: int) -> None:
        self._step = step
        self._batches = batch_sizes(slots)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._tokens = self._positions = torch.empty(0)
        self._pool = None

    def run(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """As the step itself; the logits are valid until the next run."""
        if len(self._tokens) == 0:
            self._tokens = tokens.new_zeros(self._batches[-1])
            self._positions = positions.new_zeros(self._batches[-1])
        live = len(tokens)
        batch = next(size for size in self._batches if size >= live)
        self._tokens[:live] = tokens
        self._positions[:live] = positions
        self._positions[live:batch] = 0
        if batch not in self._graphs:
            self._graphs[batch] = self._capture(batch)
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
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._step(*arguments)
        self._pool = graph.pool()
        return graph, logits


def batch_sizes(largest: int) -> list[int]:
    """Ascending, each about two thirds of the next, so that few rows of a step are idle."""
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] * 2 // 3)
    return sizes[::-1]
