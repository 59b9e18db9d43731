"""Does it work? Held-out replies: how many end by themselves, without any principles in front."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from dialogue_format import STOP_STRING
from peft import PeftModel
from segment_attention import attention_implementation
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reply:
    """A greedy reply, and whether it ended by itself, at the end-of-sequence token: that is where
    every other program stops, too.
    """

    text: str
    ended: bool


@torch.no_grad()
def greedy_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = 8,
) -> list[Reply]:
    """Replies to prompts of token ids, in order; batches are padded on the left."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    was_training = model.training
    model.eval()
    replies = []
    with attention_implementation(base, "sdpa"):
        for start in tqdm(range(0, len(prompts), batch_size), desc="replying", disable=None):
            batch = prompts[start : start + batch_size]
            replies += _reply_to_batch(model, tokenizer, batch, max_new_tokens)
    model.train(was_training)
    return replies


def _reply_to_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
) -> list[Reply]:
    longest = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    device = next(model.parameters()).device
    ids = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        stop_strings=[STOP_STRING],
        tokenizer=tokenizer,
        pad_token_id=padding_id(tokenizer),
    )
    return [_as_reply(row.tolist(), tokenizer) for row in ids[:, longest:].cpu()]


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills finished rows of a batch."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def _as_reply(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Reply:
    ended = tokenizer.eos_token_id in ids
    if ended:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    text, marker, _ = tokenizer.decode(ids, skip_special_tokens=True).partition(STOP_STRING)
    return Reply(text.strip(), ended and not marker)
