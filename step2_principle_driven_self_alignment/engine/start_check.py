"""The prefix, and a check before the hours: does this machine compute what the engine means?

Kernels, graphs and ranks can go wrong on hardware that nobody has tried. Right after the prefix,
within about a second, each is held against a plainer way. What disagrees is replaced by that way,
with a warning; where the model itself can't predict the principle prompt, the run ends.
"""

import logging
import zlib
from array import array
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from user_error import UserError

from engine.attention import CachedAttention
from engine.decoder import Decoder
from engine.launch_ranks import LaunchRanks
from engine.operations import Operations
from engine.sampler import SamplingSettings

logger = logging.getLogger(__name__)

PROMPT_LENGTHS = (1, 2, 7, 16, 33, 64, 128, 200)  # tokens of the prefix, taken for prompts
ATTENTION_ULPS, LOGITS_ULPS = 4, 16  # of the largest number, by which results may differ
SMALLEST_ULP = 2.0**-20  # sums in another order differ by more than float32's last bit
HIGHEST_LOSS = 6.0  # nats a token of English; a model that works is far below
SMALLEST_BASE_MODEL = 50_000_000  # weights on a rank; a smaller one need not know English
LOSS_TOKENS, LOSS_TOKENS_AT_A_TIME = 512, 64


@dataclass
class StartCheck:
    """What was found, for the run's summary; errors are shares of the largest number."""

    prompt_loss: float | None = None
    attention_error: float | None = None
    graph_error: float | None = None
    replaced: list[str] = field(default_factory=list)


@torch.inference_mode()
def start(
    decoder: Decoder,
    prefix: list[int],
    ranks: LaunchRanks,
    sampling: SamplingSettings,
    *,
    thorough: bool,
) -> StartCheck:
    """Computes the prefix and, if `thorough`, checks attention, graphs, draws and loss.

    Raises UserError where the model can't predict the prefix, RuntimeError where ranks differ.
    """
    check = StartCheck()
    hidden = _prefill_prefix(decoder, prefix, check)
    if thorough and prefix:
        check.attention_error = check_attention(decoder, prefix)
        agrees = _within(check.attention_error, decoder, ATTENTION_ULPS)
        if not ranks.all_of_group(agrees):
            hidden = _replace_attention(decoder, prefix, check, f"{check.attention_error:.1e}")
    if decoder.graphs is not None and not decoder.graphs.capture(ranks.all_of_group):
        check.replaced.append("graphs")
    elif decoder.graphs is not None and thorough:
        check.graph_error = check_graphs(decoder)
        agrees = _within(check.graph_error, decoder, LOGITS_ULPS)
        if not ranks.all_of_group(agrees):
            logger.warning("CUDA graphs compute something else here; going on without them")
            decoder.graphs.drop()
            check.replaced.append("graphs")
    if hidden is not None and len(hidden) > 1:
        check_ranks(decoder, hidden, ranks, sampling)
        check.prompt_loss = prompt_loss(decoder, hidden, prefix)
        check_loss(check.prompt_loss, decoder, stops=thorough)
    return check


def _prefill_prefix(decoder: Decoder, prefix: list[int], check: StartCheck) -> torch.Tensor | None:
    try:
        return decoder.prefill_prefix(prefix)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if type(decoder.model.operations) is Operations or decoder.device.type != "cuda":
            raise
        return _replace_attention(decoder, prefix, check, str(error).partition("\n")[0])


def _replace_attention(
    decoder: Decoder, prefix: list[int], check: StartCheck, reason: str
) -> torch.Tensor:
    logger.warning("the fast attention computes something else here (%s); taking plain", reason)
    check.replaced.append("attention")
    decoder.use_plain_operations()
    return decoder.prefill_prefix(prefix)


def check_attention(decoder: Decoder, token_ids: list[int]) -> float:
    """The largest difference of the attention from plain PyTorch's, as a share of the largest.

    On real activations: tokens of the prefix as prompts, then one step. Writes into the slots.
    """
    longest = min(len(token_ids), decoder.own_tokens - 1)
    lengths = [min(n, longest) for n in PROMPT_LENGTHS[: decoder.slots]]
    slots = torch.arange(len(lengths))
    prompts = (
        torch.tensor([token for n in lengths for token in token_ids[:n]]),
        slots.repeat_interleave(torch.tensor(lengths)),
        torch.cat([torch.arange(n) for n in lengths]),
    )
    last = torch.tensor([token_ids[n - 1] for n in lengths])
    prefill = _compare_attention(decoder, *prompts, lengths)
    return max(prefill, _compare_attention(decoder, last, slots, torch.tensor(lengths), None))


def _compare_attention(
    decoder: Decoder,
    tokens: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    lengths: list[int] | None,
) -> float:
    tokens, slots, positions = (x.to(decoder.device) for x in (tokens, slots, positions))
    cache, last = decoder.cache, decoder.cache.shape.layers - 1
    attend = CachedAttention(cache, decoder.model.operations, slots, positions, lengths)
    twin = CachedAttention(cache, Operations(cache.shape.head_dim), slots, positions)
    errors = []

    def compare(layer: int, heads: torch.Tensor, rotary: tuple, wanted: None) -> torch.Tensor:
        outputs = attend(layer, heads, rotary)
        if layer in (0, last // 2, last):
            errors.append(_relative_error(outputs, twin(layer, heads, rotary)))
        return outputs

    decoder.model(tokens, positions + cache.shape.prefix_tokens, compare)
    return max(errors)


def check_graphs(decoder: Decoder) -> float:
    """The largest difference of a graph's logits from the step's own, as a share of the largest."""
    slots, errors = torch.arange(decoder.slots, device=decoder.device), []
    for most in (1, decoder.own_tokens - 1):
        captured = decoder.graphs.run(slots + 1, slots % most).clone()
        errors.append(_relative_error(captured, decoder.step_eagerly(slots + 1, slots % most)))
    return max(errors)


def check_ranks(
    decoder: Decoder, hidden: torch.Tensor, ranks: LaunchRanks, sampling: SamplingSettings
) -> None:
    """RuntimeError unless two draws from the same logits are the same, on all ranks of a group."""
    logits = decoder.model.logits(hidden[-LOSS_TOKENS_AT_A_TIME:])
    keys = torch.arange(len(logits), device=logits.device) * 1234567
    draws = [decoder.sample(logits, keys, keys % 7, sampling).tolist() for _ in range(2)]
    ranks.agree(False, [zlib.crc32(array("q", draw)) for draw in draws])
    if draws[0] != draws[1]:
        raise RuntimeError("two draws from the same logits differ: this device computes wrongly")


def prompt_loss(decoder: Decoder, hidden: torch.Tensor, prefix: list[int]) -> float:
    """Mean loss in nats of the prefix's last tokens; hidden: the states of its end, [tokens, C]."""
    hidden = hidden[-LOSS_TOKENS:]
    targets = torch.tensor(prefix[1 - len(hidden) :], device=hidden.device)
    pieces = zip(
        hidden[:-1].split(LOSS_TOKENS_AT_A_TIME), targets.split(LOSS_TOKENS_AT_A_TIME), strict=True
    )
    losses = [
        F.cross_entropy(decoder.model.logits(states).float(), ids, reduction="sum")
        for states, ids in pieces
    ]
    return float(sum(losses)) / len(targets)


def check_loss(loss: float, decoder: Decoder, *, stops: bool) -> None:
    """UserError for a loss that is no number and, if it `stops`, for one that no base model has."""
    if loss != loss:
        raise UserError(f"the model's logits are NaN behind the principle prompt: {decoder.remedy}")
    weights = sum(parameter.numel() for parameter in decoder.model.parameters())
    if stops and loss > HIGHEST_LOSS and weights >= SMALLEST_BASE_MODEL:
        raise UserError(
            f"the model predicts the principle prompt with a loss of {loss:.2f} a token, where it "
            f"should be below {HIGHEST_LOSS:.0f}: its weights are damaged or don't fit the config"
        )
    logger.info("the model predicts the principle prompt with a loss of %.2f a token", loss)


def _relative_error(outputs: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference by the largest number; infinite where either is no number."""
    difference = (outputs.float() - expected.float()).abs().max()
    share = float(difference / expected.float().abs().max().clamp(min=1e-30))
    return share if share == share else float("inf")


def _within(error: float, decoder: Decoder, ulps: int) -> bool:
    """Whether an error is one of rounding, in numbers of the decoder's type."""
    return error <= ulps * max(torch.finfo(decoder.cache.own.dtype).eps, SMALLEST_ULP)
