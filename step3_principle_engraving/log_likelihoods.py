"""Log-likelihoods of given texts under a model: of answers, of held-out replies."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import Cache, PreTrainedModel

SHORTEST_SHARED = 32  # tokens; below, running a common beginning apart saves nothing


@dataclass(frozen=True)
class Continuation:
    """Token ids of a prompt (never empty) and of the text behind it that is scored."""

    prompt: list[int]
    text: list[int]


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel, rows: Sequence[Continuation], batch_size: int, label: str = "scoring"
) -> list[float]:
    """log P(text | prompt) of every row in nats, summed over the text's tokens, in the given order.

    What all prompts begin with, such as the principle prompt, is run only once.
    """
    shared = _shared_beginning(rows)
    prefix = _run_prefix(model, rows[0].prompt[:shared]) if shared else None
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].text))
    scores = [0.0] * len(rows)
    with tqdm(total=len(rows), desc=label, unit=" texts", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            own = [Continuation(rows[i].prompt[shared:], rows[i].text) for i in batch]
            for index, score in zip(batch, _score(model, own, prefix, shared), strict=True):
                scores[index] = score
            bar.update(len(batch))
    return scores


def _shared_beginning(rows: Sequence[Continuation]) -> int:
    """How many tokens all prompts begin with; each keeps at least one of its own."""
    prompts = [row.prompt for row in rows]
    shortest = min(map(len, prompts))
    columns = zip(*(prompt[: shortest - 1] for prompt in prompts), strict=True)
    common = next((n for n, ids in enumerate(columns) if len(set(ids)) > 1), shortest - 1)
    return common if len(rows) > 1 and common >= SHORTEST_SHARED else 0


def _run_prefix(model: PreTrainedModel, ids: list[int]) -> Cache:
    input_ids = torch.tensor([ids], device=model.device)
    return model(input_ids=input_ids, use_cache=True, logits_to_keep=1).past_key_values


def _score(
    model: PreTrainedModel, rows: Sequence[Continuation], prefix: Cache | None, shared: int
) -> list[float]:
    ids = [row.prompt + row.text for row in rows]
    longest = max(map(len, ids))
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), shared + longest, dtype=torch.long)
    for row, own in enumerate(ids):
        input_ids[row, : len(own)] = torch.tensor(own)
        mask[row, : shared + len(own)] = 1
    cache = copy.deepcopy(prefix)
    if cache is not None:
        cache.batch_repeat_interleave(len(rows))
    first = min(len(row.prompt) for row in rows) - 1  # its logits predict the first scored token
    logits = model(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=longest - first,
    ).logits.float()  # [rows, longest - first, vocabulary]
    targets = input_ids[:, first + 1 :].to(logits.device)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    return [
        -losses[index, len(row.prompt) - first - 1 : len(own) - first - 1].double().sum().item()
        for index, (row, own) in enumerate(zip(rows, ids, strict=True))
    ]
