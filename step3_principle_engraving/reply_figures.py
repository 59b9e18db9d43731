"""What replies show of engraving, as figures with 95 % intervals, and what chance would give.

  ends               the model ends its reply by itself
  further_turns      it goes on with a turn of the user's or another one of its own
  names_topic        the reply holds one of the prompt's topic words, as a whole word
  speaks_of_itself   a reply to an ordinary prompt speaks of the assistant
  identity_right     asked who it is, it gives one of the names that count
  median_characters  length of a reply
  held_out_loss      nats a token of replies that training has not seen

Controls, from the same replies: `names_topic` and `identity_right` with what *other* prompts ask
for (chance), `speaks_of_itself` for the questions that do ask who it is (can the measure see it?).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from confidence_intervals import bootstrap_interval, wilson_interval
from dialogue_format import user_message
from reply_generation import Reply

SHARES = ("ends", "further_turns", "names_topic", "speaks_of_itself", "identity_right")
OF_ITSELF = re.compile(
    r"\b(?:Dromedary|Watson|Self-Align|AI assistant|language model|as an AI)\b"
    r"|\bI(?: am|['’]m) (?:an? )?(?:\w+ )?(?:AI|assistant|chat ?bot|computer program)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A prompt, and the words of which a good reply holds one (its topic, or the names)."""

    instruction: str
    input: str
    wanted: tuple[str, ...]

    @property
    def message(self) -> str:
        return user_message(self.instruction, self.input)

    def is_met_by(self, reply: Reply) -> bool:
        return any(holds_word(reply.text, word) for word in self.wanted)


def holds_word(text: str, word: str) -> bool:
    """Whether a text holds a word, in upper or lower case, in the singular or with an s."""
    return (
        re.search(rf"(?<!\w){re.escape(word)}(?:['’]?s|es)?(?!\w)", text, re.IGNORECASE) is not None
    )


@dataclass(frozen=True)
class Replies:
    """A model's replies to the unseen prompts and to the identity questions, where it was asked."""

    unseen: list[Reply]
    identity: list[Reply]


def measure_replies(
    unseen: Sequence[Asked], identity: Sequence[Asked], replies: Replies, seed: int
) -> dict[str, Any]:
    """All figures but the held-out loss, then `intervals`, `controls` and how many `replies`.

    `ends`, `further_turns` and the median are of the replies to unseen prompts. None stands for
    what was not asked.
    """
    counted = {
        "ends": [reply.ended for reply in replies.unseen],
        "further_turns": [reply.further_turn for reply in replies.unseen],
        "names_topic": list(map(Asked.is_met_by, unseen, replies.unseen)),
        "speaks_of_itself": list(map(speaks_of_itself, replies.unseen)),
        "identity_right": list(map(Asked.is_met_by, identity, replies.identity)),
    }
    lengths = [len(reply.text) for reply in replies.unseen]
    return {
        **{name: _mean(hits) for name, hits in counted.items()},
        "median_characters": float(numpy.median(lengths)),
        "held_out_loss": None,
        "intervals": {
            **{name: wilson_interval(sum(hits), len(hits)) for name, hits in counted.items()},
            "median_characters": bootstrap_interval(lengths, seed, numpy.median),
        },
        "controls": {
            "names_topic": _share_of_others(unseen, replies.unseen),
            "identity_right": _mean(
                [asked.is_met_by(reply) for asked in identity for reply in replies.unseen]
            ),
            "speaks_of_itself": _mean(list(map(speaks_of_itself, replies.identity))),
        },
        "replies": {"unseen": len(replies.unseen), "identity": len(replies.identity)},
    }


def speaks_of_itself(reply: Reply) -> bool:
    """Whether a reply speaks of the assistant that gives it."""
    return OF_ITSELF.search(reply.text) is not None


def measure_loss(
    log_likelihoods: Sequence[float], tokens: Sequence[int], seed: int
) -> tuple[float, tuple[float, float]]:
    """Mean loss in nats a token over all texts, and its interval, drawn over the texts."""
    rows = numpy.stack([numpy.negative(log_likelihoods), tokens], axis=1)

    def per_token(drawn: numpy.ndarray) -> float:
        losses, counts = drawn.sum(axis=0)
        return float(losses / counts)

    return per_token(rows), bootstrap_interval(rows, seed, per_token)


def _share_of_others(asked: Sequence[Asked], replies: Sequence[Reply]) -> float | None:
    """How often a reply holds what another prompt wants: over all pairs of different topics."""
    topics = sorted({prompt.wanted for prompt in asked})
    holds = {
        topic: [any(holds_word(reply.text, word) for word in topic) for reply in replies]
        for topic in topics
    }
    return _mean(
        [
            holds[topic][index]
            for topic in topics
            for index, prompt in enumerate(asked)
            if topic != prompt.wanted
        ]
    )


def _mean(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
