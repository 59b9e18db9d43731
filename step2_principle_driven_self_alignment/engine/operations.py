"""What a step does between its matrix products, in plain PyTorch.

The same operations exist as C loops (`compiled_operations`) and as Triton kernels
(`triton_operations`), each in one pass over memory; `choose_operations` takes what the device can
run. Shapes: N tokens, K key/value heads of G query heads each, D numbers in a head. Queries that
share a key/value head are rows of one matrix, [K, N * G, D].
"""

import torch
import torch.nn.functional as F

from engine.sampler import sample

TOKENS_AT_A_TIME = 4  # in `attend_own`, which copies the keys that each of them sees


class Operations:
    """Holds nothing but the factor of all scores, 1 / sqrt(D)."""

    def __init__(self, head_dim: int) -> None:
        self.scale = head_dim**-0.5

    def add_norm(
        self, stream: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Adds delta to stream [N, width] in its place; returns its RMS norm (arXiv 1910.07467)."""
        if delta is not None:
            stream.add_(delta)
        return F.rms_norm(stream, weight.shape, weight, epsilon)

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[N, 2 * width] -> [N, width] (arXiv 2002.05202)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def place(
        self,
        heads: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
    ) -> torch.Tensor:
        """Rotates queries and keys (arXiv 2104.09864), stores keys and values, returns queries.

        heads: [N, K * G + 2 * K, D], queries, keys and values; cosines, sines: [N, D], the sines
        negative in their first half; slots, positions: int64 [N], the token's place in own_keys,
        own_values [slots, K, own tokens, D]. Returns [K, N * G, D].
        """
        tokens, count, head_dim = heads.shape
        kv_heads = own_keys.shape[1]
        rotated, values = heads.split((count - kv_heads, kv_heads), dim=1)
        swapped = rotated.roll(head_dim // 2, dims=-1)
        rotated = torch.addcmul(rotated * cosines[:, None], swapped, sines[:, None])
        queries, keys = rotated.split((count - 2 * kv_heads, kv_heads), dim=1)
        own_keys[slots, :, positions] = keys
        own_values[slots, :, positions] = values
        by_kv_head = queries.view(tokens, kv_heads, -1, head_dim).transpose(0, 1)
        return by_kv_head.reshape(kv_heads, -1, head_dim)

    def weigh(self, scores: torch.Tensor, used: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns scores [K, rows, columns] into weights in their place: a softmax not yet divided.

        A weight is exp(scale * (score - the row's highest)), and 0 from column `used` on. Returns
        scale * highest and the sums of the weights, both float32 [K, rows].
        """
        scaled = scores[..., :used].float() * self.scale
        highest = scaled.amax(dim=-1)
        weights = scaled.sub_(highest.unsqueeze(-1)).exp_()
        scores[..., :used] = weights
        scores[..., used:] = 0
        return highest, weights.sum(dim=-1)

    def attend_own(
        self,
        queries: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        prefix: torch.Tensor,
        highest: torch.Tensor,
        totals: torch.Tensor,
    ) -> torch.Tensor:
        """Attention over each token's own part, up to itself, joined with that over the prefix.

        queries: [K, N * G, D]; own_keys, own_values, slots, positions as in `place`; prefix: like
        queries, the prefix's values times their weights; highest, totals: float32 [K, N * G], as
        `weigh` returns them. The two parts are joined in float32 (Hydragen, arXiv 2402.05099).
        Returns [N, K * G, D].
        """
        kv_heads, _, head_dim = queries.shape
        by_token = (kv_heads, len(slots), -1, head_dim)
        columns = (queries.view(by_token), prefix.view(by_token))
        sums = (highest.view(by_token[:3]), totals.view(by_token[:3]))
        outputs = []
        for some in torch.arange(len(slots)).split(TOKENS_AT_A_TIME):
            longest = int(positions[some].max()) + 1
            keys = own_keys[slots[some], :, :longest].float()  # [some, K, longest, D]
            values = own_values[slots[some], :, :longest].float()
            queries_, prefix_ = (x[:, some].float() for x in columns)  # [K, some, G, D]
            highest_, totals_ = (x[:, some].unsqueeze(-1) for x in sums)  # [K, some, G, 1]
            scores = torch.einsum("kngd,nktd->kngt", queries_ * self.scale, keys)
            unseen = torch.arange(longest, device=scores.device) > positions[some][:, None]
            scores.masked_fill_(unseen[None, :, None], float("-inf"))
            top = torch.maximum(scores.amax(dim=-1, keepdim=True), highest_)
            weights, kept = (scores - top).exp_(), (highest_ - top).exp_()
            joined = torch.einsum("kngt,nktd->kngd", weights, values) + kept * prefix_
            joined /= weights.sum(dim=-1, keepdim=True) + kept * totals_
            outputs.append(joined.to(queries.dtype).transpose(0, 1).flatten(1, 2))
        return torch.cat(outputs)

    def draw(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> torch.Tensor:
        """Draws one token a row by nucleus sampling, with noise that a row's key tells.

        logits: [rows, vocabulary]; keys: int64 [rows]; positions: int64 [rows], how many tokens
        were drawn for this key before. Returns int64 [rows].
        """
        return sample(logits, keys, positions, temperature, top_p)


def choose_operations(
    device: torch.device, dtype: torch.dtype, head_dim: int, group: int
) -> Operations:
    """The fastest that the device can run; `group`: query heads to a key/value head.

    ValueError if a GPU can't run Triton's kernels.
    """
    if device.type == "cuda":
        return _load_triton(device, head_dim)
    from engine.compiled_operations import compile_operations

    return compile_operations(head_dim, group, dtype) or Operations(head_dim)


def _load_triton(device: torch.device, head_dim: int) -> Operations:
    """Runs one kernel too, as Triton builds what launches them."""
    try:
        from engine.triton_operations import TritonOperations  # Triton comes with CUDA builds only

        operations = TritonOperations(head_dim)
        numbers = torch.ones(1, head_dim, device=device)
        operations.add_norm(numbers, None, numbers[0], 0.0)
    except Exception as error:  # of Triton, of the compiler that it calls, or of the driver
        raise ValueError(
            f"Triton can't run kernels on {device} ({type(error).__name__}: {error}); it needs a C "
            "compiler (gcc, or what CC names) and Python's headers (Debian: gcc and python3-dev)"
        ) from error
    return operations
