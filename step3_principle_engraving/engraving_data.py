"""Training examples as token ids, and micro-batches of them as tensors.

Prompt and reply are tokenised apart, behind the beginning-of-sequence token (BOS) that the base's
tokenizer adds by itself. Loss falls on replies, their end-of-sequence tokens and their markers.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from base_tokenizer import begin_ids, special_texts
from dialogue_format import (
    END_MARKER,
    REPLY_CUE,
    MetaPrompt,
    engraved_prompt,
    split_turns,
    user_message,
)
from engraving_command import UserError
from tqdm import tqdm
from training_records import TrainingRecord
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # the label without loss, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its reply; `labels` repeat them where they carry loss, else
    IGNORED.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def learned_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass
class DataCounts:
    """What became of the records."""

    records: int = 0
    examples: int = 0
    nothing_to_learn: int = 0
    prompts_cut: int = 0
    replies_cut: int = 0
    unfinished: int = 0
    tokens: int = 0
    learned_tokens: int = 0

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {count:,}" for name, count in asdict(self).items()
        )


class DialogueTokenizer:
    """Tokenises the pieces of a dialogue so that they join as if the whole text were tokenised at
    once. Special tokens that a text spells stay text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the base's tokenizer has no end-of-sequence token, so no reply could end; name "
                "one as eos_token in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.bos = begin_ids(tokenizer)
        self.eos = [tokenizer.eos_token_id]
        self._line_break = self._encode("\n")
        specials = sorted(special_texts(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None

    def encode_start(self, text: str) -> list[int]:
        """Ids of a text that opens a sequence, BOS in front where the base's tokenizer puts one."""
        first, *rest = self._pieces(text)
        # As one text, as a chat template renders it: SentencePiece might put a space in between.
        before = self.tokenizer.decode(self.bos) if self.bos else ""
        ids = self._encode(before + first)
        if ids[: len(self.bos)] != self.bos:
            ids = self.bos + self._encode(first)
        return ids + self._after_line_break(rest)

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of a text that follows a line break, without the space that SentencePiece puts in
        front.
        """
        return self._after_line_break(self._pieces(text))

    def encode_after_end(self, text: str) -> list[int]:
        """Ids of a text that follows the end-of-sequence token."""
        first, *rest = self._pieces(text)
        ids = self._encode(self.tokenizer.eos_token + first)
        if ids[:1] != self.eos:
            return self.encode_continuation(text)
        return ids[1:] + self._after_line_break(rest)

    def _after_line_break(self, pieces: Sequence[str]) -> list[int]:
        # Behind a line break no such space appears; where the break would merge with the text
        # itself ("\n\n" is one token in some vocabularies), the text is safe to encode alone.
        ids = []
        for piece in pieces:
            joined = self._encode("\n" + piece)
            merged = joined[: len(self._line_break)] != self._line_break
            ids += self._encode(piece) if merged else joined[len(self._line_break) :]
        return ids

    def _pieces(self, text: str) -> list[str]:
        """The text, cut behind the first character of each special token that it spells."""
        if self._special is None:
            return [text]
        cuts = [found.start() + 1 for found in self._special.finditer(text)]
        return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def encode_prompt(
    tokenizer: DialogueTokenizer, text: str, source_max_len: int
) -> tuple[list[int], bool]:
    """BOS and the text, and whether it was cut: one too long loses its beginning, never BOS."""
    ids = tokenizer.encode_start(text)
    if len(ids) <= source_max_len:
        return ids, False
    start = len(tokenizer.bos)
    return ids[:start] + ids[start:][-(source_max_len - start) :], True


def encode_dialogue(
    tokenizer: DialogueTokenizer, meta_prompt: MetaPrompt, turns: Sequence[str]
) -> list[int]:
    """A dialogue up to the next reply; `turns` are the user's and the assistant's by turns, the
    user's first and last.
    """
    ids = tokenizer.encode_start(engraved_prompt(meta_prompt, turns[0]))
    end = tokenizer.eos + tokenizer.encode_after_end(END_MARKER)
    for reply, message in zip(turns[1::2], turns[2::2], strict=True):
        ids += tokenizer.encode_continuation(reply) + end
        ids += tokenizer.encode_continuation(message + REPLY_CUE)
    return ids


def encode_turns(
    tokenizer: DialogueTokenizer, turns: Sequence[str], ended: bool, target_max_len: int
) -> tuple[Example, bool]:
    """Ids and labels of all replies and the user's messages between them, and whether they were
    cut. `turns` alternate, a reply first and last.

    A reply that ended carries the end-of-sequence token and the marker. `target_max_len` counts
    what stands in front of the last reply's end, which comes on top where nothing was cut.
    """
    end = tokenizer.eos + tokenizer.encode_after_end(END_MARKER)
    ids, labels = [], []
    for reply, message in zip(turns[:-1:2], turns[1::2], strict=True):
        learned = tokenizer.encode_continuation(reply) + end
        given = tokenizer.encode_continuation(message + REPLY_CUE)
        ids += learned + given
        labels += learned + [IGNORED] * len(given)
    if turns:
        last = tokenizer.encode_continuation(turns[-1])
        ids, labels = ids + last, labels + last
    if len(ids) > target_max_len:
        return Example(ids[:target_max_len], labels[:target_max_len]), True
    closing = end if ended else []
    return Example(ids + closing, labels + closing), False


class EngravingData(torch.utils.data.Dataset):
    """The examples of a data file under rotating meta-prompts; records with nothing to learn are
    left out.

    `counts` says what became of the records. The meta-prompt of a record is chosen by its
    `example_id`.
    """

    def __init__(
        self,
        records: Iterable[TrainingRecord],
        tokenizer: PreTrainedTokenizerBase,
        meta_prompts: Sequence[MetaPrompt],
        source_max_len: int,
        target_max_len: int,
    ) -> None:
        self.counts = DataCounts()
        self.examples: list[Example] = []
        dialogue_tokenizer = DialogueTokenizer(tokenizer)
        for record in tqdm(records, desc="tokenising", unit=" records", disable=None):
            meta_prompt = meta_prompts[record.example_id % len(meta_prompts)]
            message = user_message(record.instruction, record.input)
            text = engraved_prompt(meta_prompt, message)
            prompt, prompt_was_cut = encode_prompt(dialogue_tokenizer, text, source_max_len)
            turns, ended = split_turns(record.output, record.finished)
            reply, was_cut = encode_turns(dialogue_tokenizer, turns, ended, target_max_len)
            self.counts.prompts_cut += prompt_was_cut
            self.counts.replies_cut += was_cut
            self.counts.unfinished += not ended
            self._add(Example(prompt + reply.input_ids, [IGNORED] * len(prompt) + reply.labels))
        if not self.examples:
            raise UserError(
                f"none of the {self.counts.records} records has a reply to learn from; "
                "check the field 'output' of the data file"
            )

    def _add(self, example: Example) -> None:
        self.counts.records += 1
        if example.learned_tokens == 0:
            self.counts.nothing_to_learn += 1
            return
        self.examples.append(example)
        self.counts.examples += 1
        self.counts.tokens += len(example.input_ids)
        self.counts.learned_tokens += example.learned_tokens

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(example.input_ids) for example in self.examples]

    def prompts(self) -> list[list[int]]:
        """The distinct prompts, up to where the first reply begins, in order."""
        found = {}
        for example in self.examples:
            start = next(i for i, label in enumerate(example.labels) if label != IGNORED)
            found[tuple(example.input_ids[:start])] = None
        return [list(prompt) for prompt in found]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def packed_batch(examples: Sequence[Example]) -> dict[str, Any]:
    """One row of examples laid end to end: no token is padding.

    `input_ids` and `position_ids` `[1, tokens]`, positions restart with each example;
    `logits_to_keep` `[learned]` are the positions whose logits are needed and `targets` `[learned]`
    the tokens that they should predict; `segment_lengths` and `segment_borders` `[examples + 1]`
    are for the attention.
    """
    if not examples:  # a process without examples in the last step still takes part in it
        examples = [Example([0], [IGNORED])]
    lengths = [len(example.input_ids) for example in examples]
    input_ids = torch.cat([torch.tensor(example.input_ids) for example in examples])
    labels = torch.cat([torch.tensor(example.labels) for example in examples])
    targets = labels.roll(
        -1
    )  # an example starts without loss, so nothing is learned across a border
    learned = (targets != IGNORED).nonzero().flatten()
    if len(learned) == 0:
        learned = torch.zeros(1, dtype=torch.long)
    return {
        "input_ids": input_ids.unsqueeze(0),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
        "segment_lengths": tuple(lengths),
        "segment_borders": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "logits_to_keep": learned,
        "targets": targets[learned],
    }


def padded_batch(examples: Sequence[Example]) -> dict[str, Any]:
    """The usual batch, padded on the right: `input_ids`, `attention_mask`, `targets` `[examples,
    longest]`.

    The mask is built from lengths, since the padding id 0 may be a real token.
    """
    examples = examples or [Example([0], [IGNORED])]
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    input_ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        mask[row, :length] = 1
        targets[row, : length - 1] = torch.tensor(example.labels[1:])
    return {"input_ids": input_ids, "attention_mask": mask, "targets": targets}
