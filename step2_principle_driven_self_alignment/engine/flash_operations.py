"""The attention on a GPU: PyTorch's own FlashAttention kernels, in parts joined in float32.

`varlen_attn` attends over sequences that lie one behind the other. A slot's own part is a sequence
of its own, wherever its slot lies; the prefix is one sequence for all queries, cut into a fixed
number of pieces so that a small batch fills the GPU, too. Parts are joined by their log-sum-exps
(Hydragen, arXiv 2402.05099). No shape depends on anything but the number of tokens, so that a step
can be captured in a CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention.varlen import AuxRequest

from engine.operations import Operations, TokenBatch, rotary_embedding

PREFIX_PIECES = 8  # for one token of each slot; a prompt's tokens fill the GPU in one piece
CAUSAL, FULL = (-1, 0), (-1, -1)  # windows
WITH_SUMS = AuxRequest(lse=True)


@dataclass(frozen=True)
class Sequences:
    """Arguments of `varlen_attn`: which queries meet which keys. Tensors are int32.

    Queries from query_starts[i] to query_starts[i + 1] meet the `used` [i] keys from
    key_starts[i] on.
    """

    query_starts: torch.Tensor  # [sequences + 1]
    key_starts: torch.Tensor  # [sequences + 1], of which the last is not read
    used: torch.Tensor  # [sequences]
    longest_query: int
    longest_key: int


class FlashOperations(Operations):
    """Everything but the attention is as in plain PyTorch.

    Caches lie as [slots, own tokens, K, D] and [prefix tokens, K, D].
    """

    tokens_first = True
    fixed_launches = True

    def __init__(self, head_dim: int, varlen_attn: Callable) -> None:
        """`varlen_attn`: torch.nn.attention.varlen.varlen_attn, or what computes the same."""
        super().__init__(head_dim)
        self._varlen_attn = varlen_attn

    def attention(
        self,
        batch: TokenBatch,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        prefix: torch.Tensor,
        own: torch.Tensor,
    ) -> torch.Tensor:
        queries = self._rotate_and_store(batch, heads, rotary, own)
        _, slots, kv_heads, own_tokens, _ = own.shape
        own = own.transpose(2, 3).view(2, slots * own_tokens, kv_heads, -1)
        prefix = prefix.transpose(1, 2)  # [2, prefix tokens, K, D]
        if batch.lengths is None:
            return self._decode(batch, queries, prefix, own, own_tokens)
        return self._prefill(batch, queries, prefix, own, own_tokens)

    def cache_write(
        self,
        batch: TokenBatch,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        own: torch.Tensor,
    ) -> None:
        self._rotate_and_store(batch, heads, rotary, own)

    def _rotate_and_store(
        self,
        batch: TokenBatch,
        heads: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        own: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the queries, [N, K * G, D]."""
        own_keys, own_values = own.transpose(2, 3)  # [slots, own tokens, K, D]
        queries, keys, values = rotary_embedding(heads, *rotary, own_keys.shape[2])
        own_keys[batch.slots, batch.positions] = keys
        own_values[batch.slots, batch.positions] = values
        return queries

    def _decode(
        self,
        batch: TokenBatch,
        queries: torch.Tensor,
        prefix: torch.Tensor,
        own: torch.Tensor,
        own_tokens: int,
    ) -> torch.Tensor:
        """Each token is a sequence; the queries of a key/value head are its rows.

        With enable_gqa, the kernel would swap axes for single queries, and so would its sums.
        """
        tokens, _, head_dim = queries.shape
        kv_heads = prefix.shape[2]
        by_kv_head = queries.view(tokens, kv_heads, -1, head_dim).transpose(1, 2)
        rows = by_kv_head.reshape(-1, kv_heads, head_dim)  # [N * G, K, D]
        per_token = len(rows) // tokens
        sequences = Sequences(
            query_starts=per_token * _arange(tokens + 1, rows.device),
            key_starts=_starts(batch.slots, own_tokens),
            used=(batch.positions + 1).int(),
            longest_query=per_token,
            longest_key=own_tokens,
        )
        parts = [self._attend(rows, *own, sequences, FULL)]
        if batch.prefix_tokens:
            parts += self._attend_prefix(rows, prefix, batch.prefix_tokens, PREFIX_PIECES)
        joined = _join(parts).view(tokens, per_token, kv_heads, head_dim)
        return joined.transpose(1, 2).reshape(queries.shape)

    def _prefill(
        self,
        batch: TokenBatch,
        queries: torch.Tensor,
        prefix: torch.Tensor,
        own: torch.Tensor,
        own_tokens: int,
    ) -> torch.Tensor:
        """Each prompt is a sequence, whose queries see its keys up to themselves."""
        lengths = torch.tensor(batch.lengths, dtype=torch.int32, device=queries.device)
        ends = lengths.cumsum(0, dtype=torch.int32)
        sequences = Sequences(
            query_starts=torch.cat((torch.zeros_like(ends[:1]), ends)),
            key_starts=_starts(batch.slots[(ends - lengths).long()], own_tokens),
            used=lengths,
            # From two queries on, the kernel leaves axes as they are.
            longest_query=max(2, *batch.lengths),
            longest_key=own_tokens,
        )
        parts = [self._attend(queries, *own, sequences, CAUSAL)]
        if batch.prefix_tokens:
            parts += self._attend_prefix(queries, prefix, batch.prefix_tokens, pieces=1)
        return _join(parts)

    def _attend_prefix(
        self, queries: torch.Tensor, prefix: torch.Tensor, tokens: int, pieces: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All queries [rows, heads, D] meet each piece of the prefix; a part for each piece."""
        rows, pieces = len(queries), min(pieces, tokens)  # the sum over no key at all is no number
        bounds = _arange(pieces + 1, queries.device) * tokens // pieces
        sequences = Sequences(
            query_starts=rows * _arange(pieces + 1, queries.device),
            key_starts=bounds,
            used=bounds.diff(),
            longest_query=max(2, rows),
            longest_key=-(-tokens // pieces),
        )
        outputs, sums = self._attend(queries.repeat(pieces, 1, 1), *prefix, sequences, FULL)
        return list(zip(outputs.chunk(pieces), sums.chunk(pieces), strict=True))

    def _attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sequences: Sequences,
        window: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """queries: [rows, heads, D]. Returns outputs like them and log-sum-exps [rows, heads]."""
        outputs, sums = self._varlen_attn(
            queries,
            keys,
            values,
            sequences.query_starts,
            sequences.key_starts,
            sequences.longest_query,
            sequences.longest_key,
            return_aux=WITH_SUMS,
            scale=self.scale,
            window_size=window,
            enable_gqa=queries.shape[1] != keys.shape[1],
            seqused_k=sequences.used,
        )
        assert sums.shape == queries.shape[1::-1], sums.shape  # the kernel gives [heads, rows]
        return outputs, sums.T.contiguous()


def _join(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One attention from those over parts of the keys, in float32."""
    sums = torch.stack([some for _, some in parts])  # [parts, rows, heads]
    shares = sums.float().softmax(dim=0).unsqueeze(-1)
    joined = sum(share * outputs.float() for share, (outputs, _) in zip(shares, parts, strict=True))
    return joined.to(parts[0][0].dtype)


def _starts(slots: torch.Tensor, own_tokens: int) -> torch.Tensor:
    """Where slots begin, and one number more, as `varlen_attn` wants it: int32 [slots + 1]."""
    starts = (slots * own_tokens).int()
    return torch.cat((starts, starts[-1:]))


def _arange(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)
