"""Batches of tokenised conversations: one a row, padded on the right, of similar length."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import sentencepiece
import torch
from synthetic_conversations import Conversation, ConversationMaker

ANCHOR = "User:"  # every own part follows it; encoded in front so that no dummy space appears
BATCHES_IN_POOL = 8


@dataclass(frozen=True)
class Batch:
    """`weights` are those of the loss: 0 on the prompt and on padding."""

    token_ids: torch.Tensor  # [batch, tokens]
    weights: torch.Tensor  # [batch, tokens], of the token at that place


class ConversationTokenizer:
    """Tokenises conversations as the continuation of a text that ends with `User:`."""

    def __init__(self, model: bytes, topic_weight: float) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.anchor = self.pieces.encode(ANCHOR)
        self.topic_weight = topic_weight

    def encode_prefix(self, text: str) -> list[int]:
        return [self.pieces.bos_id(), *self.pieces.encode(text)]

    def encode(self, conversation: Conversation) -> tuple[list[int], list[float]]:
        """Token ids of the whole exchange and the weight of each in the loss."""
        own = self.continue_anchor(conversation.own_part())
        answer = self.continue_anchor(conversation.own_part() + conversation.continuation())
        weights = [0.0] * len(own) + [1.0] * (len(answer) - len(own))
        for topic in conversation.topics:
            wanted = self.pieces.encode(topic)
            for start in find_all(answer, wanted, len(own)):
                weights[start : start + len(wanted)] = [self.topic_weight] * len(wanted)
        return answer, weights

    def continue_anchor(self, text: str) -> list[int]:
        token_ids = self.pieces.encode(ANCHOR + text)
        assert token_ids[: len(self.anchor)] == self.anchor
        return token_ids[len(self.anchor) :]


def find_all(tokens: list[int], wanted: list[int], start: int) -> Iterator[int]:
    """The places from `start` on at which `wanted` occurs in `tokens`."""
    for place in range(start, len(tokens) - len(wanted) + 1):
        if tokens[place : place + len(wanted)] == wanted:
            yield place


def endless_batches(
    maker: ConversationMaker, tokenizer: ConversationTokenizer, batch_size: int
) -> Iterator[Batch]:
    """New conversations without end; a pool is sorted by length to save padding."""
    rng = random.Random(maker.rng.random())
    while True:
        pool = [tokenizer.encode(maker.conversation()) for _ in range(batch_size * BATCHES_IN_POOL)]
        pool.sort(key=lambda encoded: len(encoded[0]))
        batches = [pool[start : start + batch_size] for start in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from map(pad, batches)


def pad(encoded: list[tuple[list[int], list[float]]]) -> Batch:
    length = max(len(token_ids) for token_ids, _ in encoded)
    return Batch(
        token_ids=torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in encoded]),
        weights=torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in encoded]),
    )
