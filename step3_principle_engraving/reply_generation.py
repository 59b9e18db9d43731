"""Replies of a model as any program would get them: nothing but its end-of-sequence token ends one.

Batched, greedy or drawn. A drawn reply depends on the seed and its prompt alone, not on the batch.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from reply_measures import padding_id
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

# A line that opens a turn, of the engraved dialogue or of the principle prompt's.
FURTHER_TURN = re.compile(
    r"(?:\A|\n)[ \t]*(?:### ?(?:User|Dromedary)\b|(?:User|Watson(?: \([^)\n]*\))?|Dromedary) ?:)"
)
LOOK_EVERY, LOOK_BACK = 8, 40  # tokens between looks for a further turn, and looked at


@dataclass(frozen=True)
class Reply:
    """What a model said up to a further turn, and how that ended."""

    text: str
    ended: bool  # by an end-of-sequence token, before any further turn
    further_turn: bool

    @classmethod
    def of_text(cls, text: str, at_end: bool) -> "Reply":
        """The reply in a generated text; `at_end`: the model ended that text by itself."""
        turn = FURTHER_TURN.search(text)
        if turn is not None:
            return cls(text[: turn.start()].strip(), ended=False, further_turn=True)
        return cls(text.strip(), ended=at_end, further_turn=False)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from the nucleus of `top_p`, at a temperature above 0."""

    temperature: float
    top_p: float
    seed: int

    def uniforms(self, prompt: Sequence[int], count: int) -> numpy.ndarray:
        """Numbers in [0, 1), one for each new token of a prompt."""
        key = hashlib.sha256(repr(list(prompt)).encode()).digest()
        return numpy.random.default_rng([self.seed, *key]).random(count)


@torch.no_grad()
def generate_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    sampling: Sampling | None,
    max_new_tokens: int,
    batch_size: int,
    label: str,
) -> list[Reply]:
    """A reply to each prompt of token ids, in order; greedy without `sampling`.

    Stop strings, penalties and temperatures of the model's own settings are left aside.
    """
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=padding_id(tokenizer),
    )
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies: dict[int, Reply] = {}
    with tqdm(total=len(prompts), desc=label, unit=" replies", disable=None) as bar:
        for start in range(0, len(prompts), batch_size):
            batch = by_length[start : start + batch_size]
            rows = _generate(model, tokenizer, [prompts[index] for index in batch], sampling)
            for index, ids in zip(batch, rows, strict=True):
                length = next((n for n, token in enumerate(ids) if token in ends), len(ids))
                text = tokenizer.decode(ids[:length], skip_special_tokens=True)
                replies[index] = Reply.of_text(text, at_end=length < len(ids))
            bar.update(len(batch))
    return [replies[index] for index in range(len(prompts))]


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    sampling: Sampling | None,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    processors = LogitsProcessorList()
    if sampling is not None:
        steps = model.generation_config.max_new_tokens
        uniforms = numpy.stack([sampling.uniforms(prompt, steps) for prompt in prompts])
        processors.append(NucleusDraw(sampling, torch.from_numpy(uniforms), longest))
    ids = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([AtFurtherTurn(tokenizer, longest)]),
    )
    return ids[:, longest:].tolist()


class NucleusDraw(LogitsProcessor):
    """Leaves one token of each row: the one that its own number of this step falls on."""

    def __init__(self, sampling: Sampling, uniforms: torch.Tensor, prompt_length: int) -> None:
        self.sampling, self.uniforms, self.prompt_length = sampling, uniforms, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` `[rows, vocabulary]` are logits; all but the drawn token's become -inf."""
        step = input_ids.shape[1] - self.prompt_length
        probabilities = (scores.float() / self.sampling.temperature).softmax(-1)
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities * (before < self.sampling.top_p)  # the nucleus: [rows, vocabulary]
        target = self.uniforms[:, step, None].to(scores.device) * kept.sum(-1, keepdim=True)
        drawn = (kept.cumsum(-1) > target).int().argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, order.gather(-1, drawn), 0.0)


class AtFurtherTurn(StoppingCriteria):
    """Ends a row soon after it has opened a further turn: what follows is cut off anyway."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self.tokenizer, self.prompt_length = tokenizer, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Which rows `[rows]` end here."""
        new = input_ids[:, self.prompt_length :]
        done = torch.zeros(len(new), dtype=torch.bool)
        if new.shape[1] % LOOK_EVERY == 0:
            texts = self.tokenizer.batch_decode(new[:, -LOOK_BACK:], skip_special_tokens=True)
            # The window may begin inside a line: only a line break begins a turn here.
            done = torch.tensor([FURTHER_TURN.search("…" + text) is not None for text in texts])
        return done.to(input_ids.device)
