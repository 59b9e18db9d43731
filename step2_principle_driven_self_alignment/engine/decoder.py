"""A loaded model with its keys and values: fills the prefix and new prompts, decodes one token."""

from collections.abc import Sequence

import torch

from engine.attention import PrefixPiece, attend_to_cache
from engine.checkpoint import Checkpoint
from engine.head_layout import plan_heads
from engine.kv_cache import CacheShape, KeyValueCache
from engine.linear import pack_weights
from engine.memory_plan import PREFILL_TOKENS
from engine.model import Transformer
from engine.model_config import ModelConfig
from engine.operations import choose_operations
from engine.sampler import SamplingSettings
from engine.step_graphs import StepGraphs
from engine.tensor_parallel import ParallelRanks
from engine.weights import WeightLoader


class Decoder:
    """One rank's share of a model. Live sequences are the first slots, without a gap."""

    def __init__(self, model: Transformer, cache: KeyValueCache, device: torch.device) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        self.slots = cache.shape.slots
        self.own_tokens = cache.shape.own_tokens
        # None: a step's operators are launched one by one.
        self.graphs = StepGraphs(self._step, self.slots) if device.type == "cuda" else None
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
        operations = choose_operations(device, dtype, config.head_dim, layout.group_size)
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fairscale's layers know no other way
        try:
            model = Transformer(config, layout, operations, prefix_tokens + own_tokens, device)
        finally:
            torch.set_default_dtype(default_dtype)
        model.requires_grad_(False)
        WeightLoader(checkpoint, layout, ranks.rank).load(model)
        pack_weights(model, dtype, device)
        shape = CacheShape(
            layers=config.layers,
            kv_heads=layout.kv_heads_per_rank,
            head_dim=config.head_dim,
            prefix_tokens=prefix_tokens,
            slots=slots,
            own_tokens=own_tokens,
        )
        return cls(model, KeyValueCache(shape, dtype, device), device)

    @torch.inference_mode()
    def fill_prefix(self, token_ids: Sequence[int]) -> None:
        """Computes the keys and values that all prompts share."""
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        for start in range(0, len(tokens), PREFILL_TOKENS):
            chunk = slice(start, min(start + PREFILL_TOKENS, len(tokens)))
            positions = torch.arange(chunk.start, chunk.stop, device=self.device)
            hidden = self.model(
                tokens[chunk], positions, PrefixPiece(self.cache, self.model.operations, chunk)
            )
            self._prefix_end = hidden[-1:]

    @torch.inference_mode()
    def fill_prompts(self, prompts: Sequence[Sequence[int]], first_slot: int) -> torch.Tensor:
        """Computes the own parts of new prompts into the slots from `first_slot` on.

        Returns the logits of what follows each, [prompts, vocabulary].
        """
        token_ids = [token for prompt in prompts for token in prompt]
        if not token_ids:
            return self.model.logits(self._prefix_end.expand(len(prompts), -1))
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        slots = torch.arange(first_slot, first_slot + len(prompts)).repeat_interleave(lengths)
        positions = torch.cat([torch.arange(length) for length in lengths])
        hidden = self._run(torch.tensor(token_ids), slots, positions)[lengths.cumsum(0) - 1]
        if 0 in lengths:
            hidden[lengths == 0] = self._prefix_end
        return self.model.logits(hidden)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Feeds one token to each live sequence; returns the next one's logits.

        tokens, positions: int64 [live], the place of each in its own part. Returns
        [live, vocabulary].
        """
        return (self._step if self.graphs is None else self.graphs.run)(tokens, positions)

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        slots = torch.arange(len(tokens), device=self.device)
        return self.model.logits(self._run(tokens, slots, positions))

    def _run(
        self, tokens: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Feeds tokens at positions of their slots; returns hidden states [tokens, width]."""
        tokens, slots, positions = (x.to(self.device) for x in (tokens, slots, positions))
        attend = attend_to_cache(self.cache, self.model.operations, slots, positions)
        return self.model(tokens, positions + self.cache.shape.prefix_tokens, attend)

    @torch.inference_mode()
    def draw(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        sampling: SamplingSettings,
    ) -> torch.Tensor:
        """The next tokens, int64 [rows], from logits [rows, vocabulary].

        keys: int64 [rows], from `noise_key`; positions: int64 [rows], how many tokens of the
        response are there already.
        """
        if sampling.temperature == 0:
            return logits.argmax(dim=-1)
        operations = self.model.operations
        return operations.draw(logits, keys, positions, sampling.temperature, sampling.top_p)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.cache.move(source, target, tokens)
