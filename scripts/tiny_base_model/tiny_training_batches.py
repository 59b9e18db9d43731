"""Batches of tokenised texts: one a row, padded on the right, of similar length."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sentencepiece
import torch
from synthetic_conversations import Conversation
from synthetic_documents import Document

ANCHOR = "User:"  # every own part follows it; encoded in front so that no dummy space appears
BATCHES_IN_POOL = 8

Encoded = tuple[list[int], list[float]]  # token ids, and the weight of each in the loss


@dataclass(frozen=True)
class Batch:
    """`weights` are those of the loss: 0 on the prompt and on padding."""

    token_ids: torch.Tensor  # [batch, tokens]
    weights: torch.Tensor  # [batch, tokens], of the token at that place


class TextTokenizer:
    """Tokenises documents, and conversations as the continuation of a text that ends in `User:`."""

    def __init__(self, model: bytes, topic_weight: float) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.anchor = self.pieces.encode(ANCHOR)
        self.topic_weight = topic_weight

    def encode_prefix(self, text: str) -> list[int]:
        return [self.pieces.bos_id(), *self.pieces.encode(text)]

    def encode_conversation(self, conversation: Conversation) -> Encoded:
        """The whole exchange; what the user wrote carries no loss."""
        own = self.continue_anchor(conversation.own_part())
        answer = self.continue_anchor(conversation.own_part() + conversation.continuation())
        weights = [0.0] * len(own) + [1.0] * (len(answer) - len(own))
        for topic in conversation.topics:
            wanted = self.pieces.encode(topic)
            for start in find_all(answer, wanted, len(own)):
                weights[start : start + len(wanted)] = [self.topic_weight] * len(wanted)
        return answer, weights

    def encode_document(self, document: Document) -> Encoded:
        """The whole document; its parts meet at line breaks, which are tokens of their own."""
        text, token_ids, weights = "", [], []
        for part, learned in document.parts:
            text += part
            token_ids = self.pieces.encode(text)
            weights += [float(learned)] * (len(token_ids) - len(weights))
        if document.ends:
            return [*token_ids, self.pieces.eos_id()], [*weights, 1.0]
        return token_ids, weights

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
    next_text: Callable[[], Encoded], batch_size: int, rng: random.Random
) -> Iterator[Batch]:
    """New texts without end; a pool is sorted by length to save padding."""
    while True:
        pool = [next_text() for _ in range(batch_size * BATCHES_IN_POOL)]
        pool.sort(key=lambda encoded: len(encoded[0]))
        batches = [pool[start : start + batch_size] for start in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from map(pad, batches)


def pad(encoded: list[Encoded]) -> Batch:
    length = max(len(token_ids) for token_ids, _ in encoded)
    return Batch(
        token_ids=torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in encoded]),
        weights=torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in encoded]),
    )
