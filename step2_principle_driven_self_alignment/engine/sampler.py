"""Samples the next tokens: temperature, nucleus, and noise that tells from the prompt alone.

Nucleus sampling (arXiv 1904.09751) keeps the likeliest tokens while the probability mass before
a token is at most top_p; equally likely ones are kept together. One of them is chosen by the
Gumbel-max trick: the largest of logit / temperature + Gumbel noise. The noise is a function of
(seed, prompt, position, token), so a response doesn't change with the batch, the slot, the order
or a restart.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from user_error import UserError

TRIES = 12  # of a flat distribution at top_p 0.5, one row in 10^11 would need more

# Constants of splitmix64's mixing function (Steele et al. 2014), as signed 64-bit integers.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are sampled; `temperature` 0 takes the likeliest token."""

    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 42
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature is {self.temperature}; give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}; give a number above 0, up to 1")
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens is {self.max_new_tokens}; give at least 1")


def noise_key(seed: int, request_id: str) -> int:
    """A signed 64-bit key for all the noise of one prompt."""
    digest = hashlib.sha256(f"{seed}\0{request_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def sample(
    logits: torch.Tensor,
    keys: torch.Tensor,
    positions: torch.Tensor,
    temperature: float,
    top_p: float,
) -> torch.Tensor:
    """Samples one token a row; `Operations.sample` has the shapes.

    All tokens get their noise, and are tried in noisy order until one lies in the nucleus. One
    that lies outside rules out all that are as unlikely, on average half of what was left outside.
    """
    scaled = logits.float() / temperature
    probabilities = torch.softmax(scaled, dim=-1)
    vocabulary = torch.arange(scaled.shape[-1], device=scaled.device)
    noisy = scaled + gumbel_noise(keys, positions, vocabulary[None])
    sampled = scaled.argmax(dim=-1)  # should none of the tries lie in the nucleus
    found = torch.zeros_like(sampled, dtype=torch.bool)
    for _ in range(min(TRIES, scaled.shape[-1])):
        tokens = noisy.argmax(dim=-1, keepdim=True)  # [rows, 1]
        values = scaled.gather(1, tokens)
        before = (probabilities * (scaled > values)).sum(dim=-1)
        inside = before <= top_p
        sampled = torch.where(inside & ~found, tokens.squeeze(1), sampled)
        found |= inside
        noisy.masked_fill_(scaled <= values, float("-inf"))
    return sampled


def gumbel_noise(keys: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float32 [rows, candidates]: a hash of its three arguments."""
    row_state = _mix(keys + positions * GOLDEN_GAMMA)
    bits = _mix(row_state[:, None] ^ (tokens * GOLDEN_GAMMA))
    # 23 bits and a half, which float32 holds exactly: never 0 or 1, so the logarithms are finite.
    uniform = (_shift_right(bits, 41).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _mix(state: torch.Tensor) -> torch.Tensor:
    """splitmix64's output function; int64 products wrap around."""
    state = (state ^ _shift_right(state, 30)) * MIX_1
    state = (state ^ _shift_right(state, 27)) * MIX_2
    return state ^ _shift_right(state, 31)


def _shift_right(state: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift; int64's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
