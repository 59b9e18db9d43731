"""A loaded model with its keys and values: prefills the prefix and new prompts, decodes a token."""

import functools
import logging
from collections.abc import Sequence

import torch

from engine.attention import CachedAttention, CacheShape, KeyValueCache, PrefixPiece
from engine.checkpoint import Checkpoint
from engine.compiled_operations import compile_operations
from engine.device import prefill_tokens, runs_flash_attention
from engine.head_layout import plan_heads
from engine.launch_ranks import LaunchRanks
from engine.linear import pack_weights
from engine.model import Transformer, uninitialised_layers
from engine.model_config import ModelConfig
from engine.operations import Operations
from engine.sampler import SamplingSettings
from engine.step_graphs import StepGraphs
from engine.weights import WeightLoader

logger = logging.getLogger(__name__)


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
        self.graphs = StepGraphs(self.step_eagerly, self.slots, device) if captured else None
        self.prefill_tokens = prefill_tokens(device)
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
            with uninitialised_layers():
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
    def prefill_prefix(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Computes the keys and values that all prompts share.

        Returns the last layer's states of its end, [tokens, width]; None if there is no prefix.
        """
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self.device)
        hidden = None
        for start in range(0, len(tokens), self.prefill_tokens):
            chunk = slice(start, min(start + self.prefill_tokens, len(tokens)))
            positions = torch.arange(chunk.start, chunk.stop, device=self.device)
            attend = PrefixPiece(self.cache, self.model.operations, chunk)
            last = None if chunk.stop == len(tokens) else positions[-1:] - chunk.start
            hidden = self.model(tokens[chunk], positions, attend, last)
            self._prefix_end = hidden[-1:]
        return hidden

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
        hidden = self._run(token_ids, slots, positions, lengths, ends)
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
        return (self.step_eagerly if self.graphs is None else self.graphs.run)(tokens, positions)

    def step_eagerly(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """As `step`, its operators launched one by one."""
        slots = torch.arange(len(tokens), device=self.device)
        return self.model.logits(self._run(tokens, slots, positions))

    def _run(
        self,
        tokens: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        lengths: Sequence[int] | None = None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Feeds tokens at positions of their slots; returns hidden states [wanted, width]."""
        tokens, slots, positions = (x.to(self.device) for x in (tokens, slots, positions))
        attend = CachedAttention(self.cache, self.model.operations, slots, positions, lengths)
        wanted = None if wanted is None else wanted.to(self.device)
        return self.model(tokens, positions + self.cache.shape.prefix_tokens, attend, wanted)

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

    def use_plain_operations(self) -> None:
        """Goes on in plain PyTorch, which is slower; what is stored stays where it is."""
        self.model.operations = Operations(self.cache.shape.head_dim)
        self.graphs = None

    @property
    def remedy(self) -> str:
        """What to do where logits are no numbers."""
        if self.cache.own.dtype == torch.float16:
            return "numbers may be too large for float16; give --dtype bfloat16 or float32"
        return "the weights are damaged; fetch the model folder again"

    def move(self, source: int, target: int, tokens: int) -> None:
        """Overwrites a slot with the first `tokens` tokens of another one."""
        self.cache.move(source, target, tokens)


def choose_operations(
    device: torch.device, dtype: torch.dtype, head_dim: int, queries_per_kv_head: int
) -> Operations:
    """The fastest that the device can run."""
    if runs_flash_attention(device, dtype, head_dim):
        # Only here: this part of PyTorch takes two seconds to import.
        from torch.nn.attention.varlen import varlen_attn

        from engine.flash_operations import FlashOperations

        return FlashOperations(head_dim, varlen_attn)
    if device.type == "cuda":
        _say_plain_is_slow(device, dtype)
        return Operations(head_dim)
    return compile_operations(head_dim, queries_per_kv_head, dtype) or Operations(head_dim)


@functools.cache
def _say_plain_is_slow(device: torch.device, dtype: torch.dtype) -> None:
    logger.warning(
        "%s in %s: FlashAttention needs compute capability 8.0 and 16-bit numbers, so attention "
        "runs operator by operator, several times slower",
        torch.cuda.get_device_name(device),
        str(dtype).removeprefix("torch."),
    )
