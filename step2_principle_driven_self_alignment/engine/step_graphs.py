"""CUDA graphs of the decoding step: without them, launching its small kernels takes longer."""

from collections.abc import Callable, Sequence

import torch

from engine.kv_cache import Piece

WARM_UP_RUNS = 2
SHORTEST_EXTENT = 64  # own tokens; each further graph reads half as many again

# (tokens [batch], positions [batch], pieces of the cache) -> logits [batch, vocabulary]
Step = Callable[[torch.Tensor, torch.Tensor, Sequence[Piece]], torch.Tensor]


class StepGraphs:
    """One graph for each of a few numbers of slots and own lengths, captured when first needed.

    A step runs in the smallest graph that it fits. The rows beyond its sequences belong to free
    slots, where nothing that they write is ever read.
    """

    def __init__(self, step: Step, slots: int, own_tokens: int) -> None:
        self._step = step
        self._batches = sizes(1, slots, factor=2)
        self._extents = sizes(min(SHORTEST_EXTENT, own_tokens), own_tokens, factor=1.5)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._tokens = self._positions = torch.empty(0)
        self._pool = None

    def run(self, tokens: torch.Tensor, positions: torch.Tensor, longest: int) -> torch.Tensor:
        """As the step itself; the logits are valid until the next run."""
        if len(self._tokens) == 0:
            self._tokens = tokens.new_zeros(self._batches[-1])
            self._positions = positions.new_zeros(self._batches[-1])
        live = len(tokens)
        key = _fitting(self._batches, live), _fitting(self._extents, longest)
        self._tokens[:live] = tokens
        self._positions[:live] = positions
        self._positions[live : key[0]] = 0
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits[:live]

    def _capture(self, batch: int, extent: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        arguments = (
            self._tokens[:batch],
            self._positions[:batch],
            [Piece(0, slice(0, batch), extent)],
        )
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


def sizes(smallest: int, largest: int, factor: float) -> list[int]:
    """Growing sizes that end with the largest."""
    result = []
    size = float(smallest)
    while size < largest:
        result.append(round(size))
        size *= factor
    return [*result, largest]


def _fitting(growing: list[int], needed: int) -> int:
    return next(size for size in growing if size >= needed)
