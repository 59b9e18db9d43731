"""A loaded model with its keys and values: fills the prefix and new prompts, decodes one token."""

import itertools
from collections.abc import Sequence

import torch

from engine.checkpoint import Checkpoint
from engine.head_layout import plan_heads
from engine.kv_cache import (
    SEGMENT_TOKENS,
    CacheShape,
    DecodeStep,
    KeyValueCache,
    Piece,
    PrefixFill,
    PromptFill,
)
from engine.linear import pack_weights
from engine.memory_plan import PREFILL_TOKENS
from engine.model import Transformer
from engine.model_config import ModelConfig
from engine.step_graphs import StepGraphs
from engine.tensor_parallel import ParallelRanks
from engine.weights import WeightLoader

SLOTS_PER_BLOCK = 8


class Decoder:
    """One rank's share of a model. Live sequences are the first slots, without a gap."""

    def __init__(self, model: Transformer, cache: KeyValueCache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        self.slots = cache.shape.slots
        self.own_tokens = cache.shape.own_tokens
        graphed = device.type == "cuda"
        self._graphs = StepGraphs(self._step, self.slots, self.own_tokens) if graphed else None
        self._prefix_end: torch.Tensor | None = None  # [1, hidden], what follows the prefix alone

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        config: ModelConfig,
        ranks: ParallelRanks,
        dtype: torch.dtype,
        device: torch.device,
        *,
        prefix_tokens: int,
        slots: int,
        own_tokens: int,
    ) -> "Decoder":
        """Reads the weights; ValueError naming a tensor that doesn't fit the config."""
        layout = plan_heads(config.query_heads, config.kv_heads, ranks.ranks)
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fairscale's layers know no other way
        try:
            model = Transformer(config, layout, prefix_tokens + own_tokens, device)
        finally:
            torch.set_default_dtype(default_dtype)
        model.requires_grad_(False)
        WeightLoader(checkpoint, layout, ranks.rank).load(model)
        pack_weights(model, dtype, device)
        shape = CacheShape(
            layers=config.layers,
            kv_heads=layout.kv_heads_per_rank,
            group=layout.group_size,
            head_dim=config.head_dim,
            prefix_tokens=prefix_tokens,
            slots=slots,
            own_tokens=own_tokens,
            segment_tokens=own_tokens if device.type == "cuda" else SEGMENT_TOKENS,
        )
        return cls(model, KeyValueCache(shape, dtype, device), device)

    @torch.inference_mode()
    def fill_prefix(self, token_ids: Sequence[int]) -> None:
        """Computes the keys and values that all prompts share."""
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        for start in range(0, len(tokens), PREFILL_TOKENS):
            chunk = slice(start, min(start + PREFILL_TOKENS, len(tokens)))
            positions = torch.arange(chunk.start, chunk.stop, device=self.device)
            hidden = self.model(tokens[chunk], positions, PrefixFill(self.cache, chunk))
            self._prefix_end = hidden[-1:]

    @torch.inference_mode()
    def fill_prompts(self, prompts: Sequence[Sequence[int]], first_slot: int) -> torch.Tensor:
        """Computes the own parts of new prompts into the slots from `first_slot` on.

        Returns the logits of what follows each, float32 [prompts, vocabulary].
        """
        lengths = [len(prompt) for prompt in prompts]
        ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        token_ids = [token for prompt in prompts for token in prompt]
        if not token_ids:
            return self.model.logits(self._prefix_end.expand(len(prompts), -1))
        attend = PromptFill(self.cache, first_slot, lengths)
        positions = attend.positions + self.cache.shape.prefix_tokens
        hidden = self.model(torch.tensor(token_ids, device=self.device), positions, attend)[ends]
        if 0 in lengths:
            hidden[torch.tensor(lengths, device=self.device) == 0] = self._prefix_end
        return self.model.logits(hidden)

    @torch.inference_mode()
    def step(
        self, tokens: torch.Tensor, positions: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """Feeds one token to each live sequence; returns the next one's logits.

        tokens, positions: int64 [live], the place of each in its own part; lengths: the same
        positions plus one, known without asking the device. Returns float32 [live, vocabulary].
        """
        if self._graphs is not None:
            return self._graphs.run(tokens, positions, max(lengths))
        pieces = cover(lengths, self.cache.shape.segment_tokens)
        return self._step(tokens, positions, pieces)

    def _step(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pieces: Sequence[Piece],
    ) -> torch.Tensor:
        attend = DecodeStep(self.cache, positions, pieces)
        hidden = self.model(tokens, positions + self.cache.shape.prefix_tokens, attend)
        return self.model.logits(hidden)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.cache.move(source, target, tokens)


def cover(lengths: Sequence[int], segment_tokens: int) -> list[Piece]:
    """Whole segments that hold the first `lengths` tokens of each slot, and little more.

    Neighbouring slots whose sequences reach a segment are one piece; shorter ones between them
    are read in vain.
    """
    pieces = []
    blocks = range(0, len(lengths), SLOTS_PER_BLOCK)
    longest = [max(lengths[block : block + SLOTS_PER_BLOCK]) for block in blocks]
    for segment in range(-(-max(lengths) // segment_tokens)):
        reached = [length > segment * segment_tokens for length in longest]
        for is_reached, run in itertools.groupby(range(len(blocks)), reached.__getitem__):
            if is_reached:
                run = list(run)
                stop = min((run[-1] + 1) * SLOTS_PER_BLOCK, len(lengths))
                slots = slice(run[0] * SLOTS_PER_BLOCK, stop)
                pieces.append(Piece(segment, slots, segment_tokens))
    return pieces
