"""Synthetic conversations in the format of the self-align prompt, about an open set of topics.

`conversation_texts.json` holds small grammars: `[a|b]` is a choice, `{t}` the topic. The topics are
real nouns, pairs of words, blends of two nouns and invented words, so that a model can name them
only by copying from the prompt. Held-out conversations use wordings of prompts that training
conversations never use, and on request also nouns and adjectives that these never use.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CHOICE = re.compile(r"\[([^\[\]]*)\]")
BLANK = re.compile(r"\{([a-z])\}")
THOUGHTS_CUE = "\n\nWatson (internal thoughts):"
REPLY_CUE = "\n\nWatson:"
END_OF_TURN = "\n\nUser: Good job! Clear context"


@dataclass(frozen=True)
class Conversation:
    """One exchange; `topics` are the strings that the reply takes over from the prompt."""

    kind: str
    prompt: str
    thoughts: str
    reply: str
    topics: tuple[str, ...]

    def own_part(self) -> str:
        """What follows the principle prompt, up to and including the cue for the thoughts."""
        return f" {self.prompt}{THOUGHTS_CUE}"

    def continuation(self) -> str:
        """What the base model writes."""
        return f" {self.thoughts}{REPLY_CUE} {self.reply}{END_OF_TURN}"


class TopicWords:
    """Draws topics; `held_out` chooses the half of the word lists that training never sees."""

    def __init__(self, words: dict[str, str], held_out: bool) -> None:
        half = "held_out_" if held_out else ""
        self.nouns = words[half + "nouns"].split()
        self.adjectives = words[half + "adjectives"].split()
        self.verbs = words["verbs"].split()
        self.syllables = words["syllables"].split()
        self.endings = words["endings"].split()
        self.reserved = set(words["held_out_nouns"].split())
        self.invented_share = 0.1 if held_out else 0.55

    def topic(self, rng: random.Random) -> str:
        """A noun, an adjective and a noun, or two nouns; in part made-up words."""
        first, second = self.word(rng), self.word(rng)
        form = rng.random()
        if form < 0.45:
            return second
        if form < 0.85:
            return f"{rng.choice(self.adjectives)} {second}"
        return f"{first} {second}"

    def word(self, rng: random.Random) -> str:
        """A real noun, a blend of two or an invented word."""
        if rng.random() >= self.invented_share:
            return rng.choice(self.nouns)
        return self.blend(rng) if rng.random() < 0.6 else self.invented(rng)

    def blend(self, rng: random.Random) -> str:
        """The front of one noun and the back of another: "almond" and "lantern" give "almtern"."""
        front, back = rng.choice(self.nouns), rng.choice(self.nouns)
        word = front[: rng.randint(2, 5)] + back[-rng.randint(2, 5) :]
        return rng.choice(self.nouns) if word in self.reserved else word

    def invented(self, rng: random.Random) -> str:
        syllables = "".join(rng.choice(self.syllables) for _ in range(rng.randint(2, 3)))
        word = syllables + rng.choice(self.endings)
        return word.capitalize() if rng.random() < 0.3 else word

    def person(self, rng: random.Random) -> str:
        return f"{self.invented(rng).capitalize()} {self.invented(rng).capitalize()}"


class ConversationMaker:
    """Makes conversations from a seed; the same seed gives the same conversations."""

    def __init__(
        self, seed: int, opening: str, held_out: bool = False, held_out_words: bool = False
    ) -> None:
        """`held_out` and `held_out_words` choose wordings and words that training never sees."""
        texts = json.loads((FOLDER / "conversation_texts.json").read_text(encoding="utf-8"))
        words = json.loads((FOLDER / "topic_words.json").read_text(encoding="utf-8"))
        self.rng = random.Random(f"{seed} {held_out}")
        self.opening = opening
        self.words = TopicWords(words, held_out_words)
        self.wrappers = texts["wrappers"]
        self.kinds = texts["kinds"]
        self.prompts_key = "held_out_prompts" if held_out else "prompts"

    def conversation(self, kind: str | None = None) -> Conversation:
        """A new conversation, of a drawn kind unless one is given."""
        kind = kind or self.draw_kind()
        grammar = self.kinds[kind]
        topics = self.draw_topics(kind)
        pattern = self.rng.choice(self.wrappers)
        prompt = pattern.replace("{prompt}", self.rng.choice(grammar[self.prompts_key]))
        if "{passage}" in prompt:
            prompt = prompt.replace("{passage}", self.sentences(grammar["passage"]))
        prompt = self.fill(prompt, topics)
        thoughts = self.fill(self.sentences(grammar["thoughts"]), topics)
        reply = self.fill(self.reply(grammar), topics)
        named = tuple(topic for topic in dict.fromkeys(topics.values()) if topic in prompt)
        return Conversation(kind, prompt, f"{self.opening} {thoughts}", reply, named)

    def draw_kind(self) -> str:
        weights = [grammar["weight"] for grammar in self.kinds.values()]
        return self.rng.choices(list(self.kinds), weights)[0]

    def draw_topics(self, kind: str) -> dict[str, str]:
        if kind == "person":
            return {"p": self.words.person(self.rng)}
        return {name: self.words.topic(self.rng) for name in "tuw"}

    def reply(self, grammar: dict) -> str:
        """The sentences of a reply; where the kind has items, a numbered list and a closing."""
        text = self.sentences(grammar["reply"])
        if "items" in grammar:
            items = [item for slot in grammar["items"] if (item := self.rng.choice(slot))]
            lines = [f"{number}. {item}" for number, item in enumerate(items, start=1)]
            parts = [text, "\n".join(lines), self.sentences(grammar["closing"])]
            text = "\n\n".join(part for part in parts if part)
        return text

    def sentences(self, slots: list[list[str]]) -> str:
        """One alternative of each slot, in order; an empty one leaves the slot out."""
        drawn = [self.rng.choice(slot) for slot in slots]
        return " ".join(sentence for sentence in drawn if sentence)

    def fill(self, text: str, topics: dict[str, str]) -> str:
        """Replaces choices by one of their alternatives, then blanks by words."""
        while CHOICE.search(text):
            text = CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), text)
        return BLANK.sub(lambda match: topics.get(match[1]) or self.draw_word(match[1]), text)

    def draw_word(self, blank: str) -> str:
        lists = {"n": self.words.nouns, "v": self.words.verbs, "a": self.words.adjectives}
        return self.rng.choice(lists[blank])
