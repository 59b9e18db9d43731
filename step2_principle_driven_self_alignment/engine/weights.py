"""A rank's share of the weights, from a checkpoint; what doesn't divide is padded with zeros."""

import torch

from engine.checkpoint import Checkpoint
from engine.head_layout import HeadLayout, padded_share
from engine.model import Attention, Block, Transformer


class WeightLoader:
    """Copies slices of a checkpoint into the fused, padded matrices of one rank."""

    def __init__(self, checkpoint: Checkpoint, layout: HeadLayout, rank: int) -> None:
        self.checkpoint = checkpoint
        self.layout = layout
        self.rank = rank

    def load(self, model: Transformer) -> None:
        """Copies every weight; UserError naming the tensor that is missing, unused or misshapen."""
        config, width = model.config, model.config.hidden_size
        embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
        self.checkpoint.check(embeddings, (config.vocab_size, width))
        if config.tied_embeddings and head in self.checkpoint.names():
            self.checkpoint.forget(head)  # some folders write the copy out
        if config.tied_embeddings or head not in self.checkpoint.names():
            head = embeddings if config.tied_embeddings else head
        self.checkpoint.check(head, (config.vocab_size, width))
        self._copy_rows(model.embedding.weight, embeddings, config.vocab_size)
        self._copy_rows(model.head.weight, head, config.vocab_size)
        self._copy_whole(model.norm.weight, "model.norm.weight")
        for index, block in enumerate(model.blocks):
            self._copy_block(block, f"model.layers.{index}.", config.feed_forward_size)
        self.checkpoint.check_all_used()

    def _copy_block(self, block: Block, prefix: str, feed_forward_size: int) -> None:
        self._copy_whole(block.attention_norm.weight, prefix + "input_layernorm.weight")
        self._copy_whole(block.feed_forward_norm.weight, prefix + "post_attention_layernorm.weight")
        self._copy_attention(block.attention, prefix + "self_attn.")
        hidden_size = block.attention_norm.weight.shape[0]
        names = [prefix + f"mlp.{part}_proj.weight" for part in ("gate", "up")]
        for name, half in zip(names, block.feed_forward.gate_up.weight.chunk(2), strict=True):
            self.checkpoint.check(name, (feed_forward_size, hidden_size))
            self._copy_rows(half, name, feed_forward_size)
        down = prefix + "mlp.down_proj.weight"
        self.checkpoint.check(down, (hidden_size, feed_forward_size))
        share = self._share(feed_forward_size)
        weight = block.feed_forward.down.weight
        weight.zero_()
        weight[:, : share.stop - share.start] = self.checkpoint.read(down, columns=share)

    def _copy_attention(self, attention: Attention, prefix: str) -> None:
        heads = {"q": attention.heads, "k": attention.kv_heads, "v": attention.kv_heads}
        head_of = {"q": self.layout.query_head_of}
        totals = {"q": self.layout.query_heads}
        fused, start = attention.qkv, 0
        for part, count in heads.items():
            find = head_of.get(part, self.layout.kv_head_of)
            total = totals.get(part, self.layout.kv_heads)
            sources = [find(self.rank, local) for local in range(count)]
            name = f"{prefix}{part}_proj.weight"
            stop = start + count * attention.head_dim
            self.checkpoint.check(name, (total * attention.head_dim, fused.weight.shape[1]))
            self._copy_heads(fused.weight[start:stop], name, sources, attention.head_dim)
            if fused.bias is not None:
                name = f"{prefix}{part}_proj.bias"
                self.checkpoint.check(name, (total * attention.head_dim,))
                self._copy_heads(fused.bias[start:stop], name, sources, attention.head_dim)
            start = stop
        self._copy_output(attention, prefix)
        for part in ("query", "key"):
            if hasattr(attention, f"{part}_norm"):
                weight = getattr(attention, f"{part}_norm")
                self._copy_whole(weight, f"{prefix}{part[0]}_norm.weight")

    def _copy_heads(
        self, target: torch.Tensor, name: str, sources: list[int | None], head_dim: int
    ) -> None:
        target.zero_()
        for local, head in enumerate(sources):
            if head is not None:
                rows = slice(head * head_dim, (head + 1) * head_dim)
                target[local * head_dim : (local + 1) * head_dim] = self.checkpoint.read(name, rows)

    def _copy_output(self, attention: Attention, prefix: str) -> None:
        name, weight, head_dim = (
            prefix + "o_proj.weight",
            attention.output.weight,
            attention.head_dim,
        )
        self.checkpoint.check(name, (weight.shape[0], self.layout.query_heads * head_dim))
        weight.zero_()
        first = self.rank * attention.heads * head_dim
        stop = min(first + weight.shape[1], self.layout.query_heads * head_dim)
        if first < stop:
            columns = slice(first, stop)
            weight[:, : stop - first] = self.checkpoint.read(name, columns=columns)
        if attention.output.bias is not None:
            self._copy_whole(attention.output.bias, prefix + "o_proj.bias")

    def _copy_whole(self, target: torch.Tensor, name: str) -> None:
        self.checkpoint.check(name, tuple(target.shape))
        target.copy_(self.checkpoint.read(name))

    def _copy_rows(self, target: torch.Tensor, name: str, size: int) -> None:
        share = self._share(size)
        target.zero_()
        target[: share.stop - share.start] = self.checkpoint.read(name, share)

    def _share(self, size: int) -> slice:
        """This rank's rows of `size`; fewer, or none, on the last ranks."""
        share = padded_share(size, self.layout.ranks)
        start = min(self.rank * share, size)
        return slice(start, min(start + share, size))
