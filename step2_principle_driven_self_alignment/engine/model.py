"""A decoder-only transformer over flat batches of tokens; how they attend is passed in.

N: tokens in the batch, C: hidden size. Sizes of heads and widths are one rank's share.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel import layers
from fairscale.nn.model_parallel.layers import VocabParallelEmbedding
from torch import nn

from engine.head_layout import HeadLayout, padded_share
from engine.linear import ColumnLinear, RowLinear
from engine.model_config import ModelConfig, RopeScaling
from engine.operations import Operations

# (layer, [N, heads + 2 kv_heads, D], cosines and sines [N, D], wanted) -> [wanted, heads, D]
Attend = Callable[..., torch.Tensor]


def rotary_frequencies(config: ModelConfig) -> torch.Tensor:
    """Radians per position for each pair of a head's dimensions: [head_dim / 2].

    RoFormer (arXiv 2104.09864); Llama 3.1 slows the low frequencies down and blends in between
    (as in transformers' `rope_type: llama3`). Computed in the order that transformers and Meta
    compute it: at position 3,000, a last bit of a frequency is seen in the logits.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if not isinstance(scaling, RopeScaling):
        return frequencies / scaling
    turns = scaling.original_max_positions / (2 * torch.pi / frequencies)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / width).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


class Attention(nn.Module):
    """Queries, keys and values from one matrix."""

    def __init__(self, config: ModelConfig, layout: HeadLayout) -> None:
        super().__init__()
        self.heads = layout.query_heads_per_rank
        self.kv_heads = layout.kv_heads_per_rank
        self.head_dim = config.head_dim
        self.epsilon = config.norm_epsilon
        rows = layout.ranks * (self.heads + 2 * self.kv_heads) * config.head_dim
        self.qkv = _column_parallel(config.hidden_size, rows, bias=config.qkv_bias)
        self.output = _row_parallel(
            layout.ranks * self.heads * config.head_dim, config.hidden_size, config.output_bias
        )
        if config.head_norms:
            self.query_norm = nn.Parameter(torch.ones(config.head_dim), requires_grad=False)
            self.key_norm = nn.Parameter(torch.ones(config.head_dim), requires_grad=False)

    def forward(self, normed: torch.Tensor, attend: Callable) -> torch.Tensor:
        """normed: [N, C]; attend: from [N, heads + 2 kv_heads, D] to [N or fewer, heads, D]."""
        tokens = len(normed)
        heads = self.qkv(normed).view(tokens, -1, self.head_dim)  # [N, heads + 2 kv_heads, D]
        if hasattr(self, "query_norm"):
            queries, keys, _ = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            size = (self.head_dim,)
            queries.copy_(F.rms_norm(queries, size, self.query_norm, self.epsilon))
            keys.copy_(F.rms_norm(keys, size, self.key_norm, self.epsilon))
        return self.output(attend(heads).flatten(1))


class FeedForward(nn.Module):
    """SwiGLU, gate and up from one matrix."""

    def __init__(self, config: ModelConfig, ranks: int) -> None:
        super().__init__()
        width = padded_share(config.feed_forward_size, ranks) * ranks
        self.gate_up = _column_parallel(config.hidden_size, 2 * width)
        self.down = _row_parallel(width, config.hidden_size)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig, layout: HeadLayout) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layout)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(config, layout.ranks)


class Transformer(nn.Module):
    """The whole model on one rank; weights are copied in by `weights.WeightLoader`."""

    def __init__(
        self,
        config: ModelConfig,
        layout: HeadLayout,
        operations: Operations,
        positions: int,
        device: torch.device,
    ) -> None:
        """`positions`: how many tokens a sequence can have, prefix and own part."""
        super().__init__()
        self.config = config
        self.operations = operations
        padded_vocab = padded_share(config.vocab_size, layout.ranks) * layout.ranks
        self.embedding = VocabParallelEmbedding(
            padded_vocab, config.hidden_size, init_method=_leave_unset
        )
        # Moved one at a time, so that a device's model never lies in the host's memory as a whole.
        blocks = (Block(config, layout).to(device) for _ in range(config.layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = _norm(config)
        self.head = _column_parallel(config.hidden_size, padded_vocab, gather_output=True)
        angles = torch.outer(torch.arange(positions).float(), rotary_frequencies(config))
        dtype = torch.get_default_dtype()
        cosines, sines = angles.cos(), angles.sin()
        self.register_buffer("cosines", torch.cat((cosines, cosines), -1).to(dtype))
        self.register_buffer("sines", torch.cat((-sines, sines), -1).to(dtype))
        self.to(device)

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """token_ids, positions: [N]; wanted: int64, the tokens whose states are of use, None: all.

        Returns the last layer's normed states, [wanted, C]. Of the others, the last layer needs
        keys and values only.
        """
        rotary = self.cosines[positions], self.sines[positions]
        stream, delta = self.embedding(token_ids), None
        for layer, block in enumerate(self.blocks):
            normed = self._add_norm(stream, delta, block.attention_norm)
            of_use = wanted if layer == len(self.blocks) - 1 else None
            delta = block.attention(
                normed, functools.partial(attend, layer, rotary=rotary, wanted=of_use)
            )
            if of_use is not None:
                stream = stream[of_use]
            normed = self._add_norm(stream, delta, block.feed_forward_norm)
            gate_up = block.feed_forward.gate_up(normed)
            delta = block.feed_forward.down(self.operations.swiglu(gate_up))
        return self._add_norm(stream, delta, self.norm)

    def _add_norm(
        self, stream: torch.Tensor, delta: torch.Tensor | None, norm: nn.RMSNorm
    ) -> torch.Tensor:
        """Adds delta to the stream in its place; returns the stream's norm."""
        return self.operations.add_norm(stream, delta, norm.weight, norm.eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, C] -> [N, vocabulary], equal on all ranks."""
        return self.head(hidden)[:, : self.config.vocab_size].contiguous()


def _leave_unset(weight: torch.Tensor) -> torch.Tensor:
    return weight


@contextlib.contextmanager
def uninitialised_layers() -> Iterator[None]:
    """Within it, fairscale's layers don't make the whole model's weights to take their share."""
    initialise = layers._initialize_affine_weight
    layers._initialize_affine_weight = lambda *_, **__: None
    try:
        yield
    finally:
        layers._initialize_affine_weight = initialise


def _norm(config: ModelConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)


def _column_parallel(
    inputs: int, outputs: int, bias: bool = False, gather_output: bool = False
) -> ColumnLinear:
    return ColumnLinear(
        inputs, outputs, bias=bias, gather_output=gather_output, init_method=_leave_unset
    )


def _row_parallel(inputs: int, outputs: int, bias: bool = False) -> RowLinear:
    return RowLinear(inputs, outputs, bias=bias, input_is_parallel=True, init_method=_leave_unset)
