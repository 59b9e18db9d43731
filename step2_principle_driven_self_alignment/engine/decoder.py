"""A loaded model with its keys and values: prefills the prefix and new prompts, decodes a token."""

from collections.abc import Sequence

import torch

from engine.attention import CachedAttention, CacheShape, KeyValueCache, PrefixPiece
from engine.checkpoint import Checkpoint
from engine.head_layout import plan_heads
from engine.launch_ranks import LaunchRanks
from engine.linear import pack_weights
from engine.memory_plan import PREFILL_TOKENS
from engine.model import Transformer
from engine.model_config import ModelConfig
from engine.operations import choose_operations
from engine.sampler import SamplingSettings
from engine.step_graphs import StepGraphs
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
        captured = device.type == "cuda" and model.operations.fixed_launches
        self.graphs = StepGraphs(self._step, self.slots) if captured else None
        self._prefix_end: torch.Tensor | None = None  # [1, hidden], what follows the prefix alone

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        config: ModelConfig,
        ranks: LaunchRanks,
        dtype: torch.dtype,
        device: torch.device,
        *,
        prefix_tokens: int,
        slots: int,
        own_tokens: int,
    ) -> "Decoder":
        """Reads the weights; UserError naming a tensor that doesn't fit the config."""
        layout = plan_heads(config.query_heads, config.kv_heads, ranks.tensor_parallel)
        operations = choose_operations(device, dtype, config.head_dim, layout.queries_per_kv_head)
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fairscale's layers know no other way
        try:
            model = Transformer(config, layout, operations, prefix_tokens + own_tokens, device)
        finally:
            torch.set_default_dtype(default_dtype)
        model.requires_grad_(False)
        WeightLoader(checkpoint, layout, ranks.rank_in_group).load(model)
        pack_weights(model, dtype, device)
        shape = CacheShape(
            layers=config.layers,
            kv_heads=layout.kv_heads_per_rank,
            head_dim=config.head_dim,
            prefix_tokens=prefix_tokens,
            slots=slots,
            own_tokens=own_tokens,
        )
        cache = KeyValueCache(shape, dtype, device, tokens_first=operations.tokens_first)
        return cls(model, cache, device)

    @torch.inference_mode()
    def prefill_prefix(self, token_ids: Sequence[int]) -> None:
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
    def prefill(self, prompts: Sequence[Sequence[int]], first_slot: int) -> torch.Tensor:
        """Computes the own parts of new prompts into the slots from `first_slot` on.

        Returns the logits of what follows each, [prompts, vocabulary].
        """
        some = [index for index, prompt in enumerate(prompts) if prompt]
        if not some:
            return self.model.logits(self._prefix_end.expand(len(prompts), -1))
        lengths = [len(prompts[index]) for index in some]
        token_ids = torch.tensor([token for prompt in prompts for token in prompt])
        slots = (first_slot + torch.tensor(some)).repeat_interleave(torch.tensor(lengths))
        positions = torch.cat([torch.arange(length) for length in lengths])
        ends = torch.tensor(lengths).cumsum(0) - 1
        hidden = self._run(token_ids, slots, positions, lengths)[ends]
        if len(some) < len(prompts):
            behind_prefix = self._prefix_end.repeat(len(prompts), 1)
            behind_prefix[some] = hidden
            hidden = behind_prefix
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
        self,
        tokens: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Feeds tokens at positions of their slots; returns hidden states [tokens, width]."""
        tokens, slots, positions = (x.to(self.device) for x in (tokens, slots, positions))
        attend = CachedAttention(self.cache, self.model.operations, slots, positions, lengths)
        return self.model(tokens, positions + self.cache.shape.prefix_tokens, attend)

    @torch.inference_mode()
    def sample(
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
        return operations.sample(logits, keys, positions, sampling.temperature, sampling.top_p)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.cache.move(source, target, tokens)
