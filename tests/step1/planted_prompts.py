"""Planted pairs: prompts said another way, and tasks that differ in one word of weight."""

import random
from collections.abc import Callable, Iterator

ORIGINALS = [
    "How do I stop my sourdough from sticking to the basket?",
    "Write a limerick about a goat that runs a post office.",
    "What caused the decline of the Hanseatic League? Name three reasons.",
    "Explain to a ten year old why the moon changes its shape. Use an everyday picture.",
    "List five low-cost ways to insulate an old wooden window.",
    "Summarise the plot of a novel in which a clockmaker loses his sight. Keep it under 80 words.",
    "Which of these animals lay eggs: platypus, otter, turtle, bat?",
    "Give me a packing list for a four day hike in the Dolomites. It will rain on two of them.",
    "Convert 12 miles to kilometres and show the steps.",
    "Compare solar panels with small wind turbines for a farm in Denmark. Mention cost and noise.",
    "Draft an email to the council about the broken street lamp in Mill Lane.",
    "Why do cats purr when they are ill?",
    "Suggest seven names for a bakery that sells rye bread only.",
    'Translate the sentence "The harbour froze in January" into Spanish. Then explain the tenses.',
    "Write a Python function that returns the longest palindrome in a list. Add two tests.",
    "What is the difference between a bassoon and an oboe?",
    "Plan a birthday party for six children who love dinosaurs. The budget is 90 euros.",
    "Describe how a heat pump works. Then say when it is a poor choice.",
    "Who designed the Sydney Opera House, and when was it opened?",
    "Rewrite this paragraph in a formal tone: we got there late and the boss was mad.",
    "Make a table of the eight planets. Add mass, radius and number of moons.",
    "How can a small museum attract young visitors? Think of cheap ideas.",
    "Create a quiz of twelve questions about rivers in Africa.",
    "Argue for and against a four day working week. End with your own view.",
]
OPENERS = [
    "Please {}", "Could you please help me with this? {}", "Hi there! {}", "Hello. {}",
    "I have a question for you: {}", "I would like you to answer this. {}",
    "Can you help me out? {}", "Hey, I was wondering about this. {}", "Dear assistant, {}",
    "Good morning! I hope you are well. {}", "Quick question. {}", "Here is my request: {}",
    "I need some help with the following. {}", "My teacher gave us this task. {}",
    "Answer the following question. {}", "{} Thanks!", "{} Thank you very much in advance.",
    "{} I would really appreciate your help.", "{} Please answer as well as you can.",
    "{} Thanks a lot, you are great.", "Hi! {} Thank you.", "{} I hope you can help me.",
    "This is for a school project. {}", "So, {}", "Kindly answer: {}",
]  # fmt: skip
WEIGHTLESS = ("please", "just", "really", "simply", "also", "then", "kindly", "actually")
DIGITS = {
    "three": "3", "ten": "10", "five": "5", "four": "4", "two": "2", "seven": "7", "six": "6",
    "eight": "8", "twelve": "12", "12": "twelve", "80": "eighty", "90": "ninety",
}  # fmt: skip


def _other_case_and_marks(text: str, draw: random.Random) -> str:
    text = draw.choice((str.upper, str.lower, str.title))(text)
    return text.translate(str.maketrans("", "", ",'")) + draw.choice(("", "!", "??", " …"))


def _wrapped(text: str, draw: random.Random) -> str:
    return draw.choice(OPENERS).format(text)


def _number_otherwise(text: str, draw: random.Random) -> str:
    for word, other in DIGITS.items():
        if f" {word} " in text:
            return text.replace(f" {word} ", f" {other} ", 1)
    return ""


def _weightless_word(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    words.insert(draw.randrange(1, len(words)), draw.choice(WEIGHTLESS))
    return " ".join(words)


def _other_order(text: str, draw: random.Random) -> str:
    sentences = text.replace("? ", "?\n").replace(". ", ".\n").split("\n")
    return " ".join(sentences[::-1]) if len(sentences) > 1 else ""


def _markdown_escapes(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    place = draw.randrange(len(words))
    words[place] = rf"\*{words[place]}\*"
    return " ".join(words)


def _misspelt(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    long = [
        n for n, word in enumerate(words) if len(word) > 5 and word.isalpha() and word.islower()
    ]
    if not long:
        return ""
    place = draw.choice(long)
    word, at = words[place], draw.randrange(1, 4)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words) if words[place] != word else ""


REPHRASINGS: dict[str, Callable[[str, random.Random], str]] = {
    "case and punctuation": _other_case_and_marks,
    "polite opener or wrapper": _wrapped,
    "number as word or digit": _number_otherwise,
    "word without weight": _weightless_word,
    "sentences in another order": _other_order,
    "Markdown escapes": _markdown_escapes,
    "one misspelt word": _misspelt,
}

NAME_LIST = "Ava Bruno Carla Dmitri Esme Farid Greta Hugo Ines Jonas Kira Leif Mona Nils Olga"
NOUN_LIST = (
    "lantern violin cactus glacier ferry saddle orchard teapot comet anchor beetle candle "
    "drum engine fossil guitar hammock island jacket kettle ladder magnet needle oyster "
    "pillow"
)
NAMES, NOUNS = NAME_LIST.split(), NOUN_LIST.split()
SHORT_TASKS = [
    "Who is the founder of House {name}?", "What is a {noun} made of?", "Who was {name} Okafor?",
    "Write a poem about a {noun}.", "How old is a {number} year old dog in human years?",
    "Is {number} a prime number?", "What colour is a {noun}?", "Tell me a joke about a {noun}.",
    "Which year came {number} years after 1800?", "How do you spell {noun} backwards?",
]  # fmt: skip
SLOT_TASKS = [
    "{name} walks into a shop and buys {number} apples for a pie. The clerk asks for the money, "
    "but the purse is at home on the kitchen table. What should be done next, and why? Answer in "
    "two or three sentences and give a reason for every step.",
    "A traveller finds a {noun} on the road between two villages and does not know whose it is. "
    "Write the conversation that follows when the first person from the village comes along and "
    "claims that it was stolen last night.",
    "In a small town by the sea lives a retired captain called {name} who collects old maps. Write "
    "the opening scene of a story in which one of these maps turns out to show a place that no "
    "atlas has, and a stranger offers a fortune for it.",
]
DEFINITIONS = [
    "In this task you get a short text and have to say how it feels: positive, negative or "
    "neutral. Judge the words of the writer only and do not guess what others may think of "
    "it. If a text has both sides, choose the one that takes more room. Answer with one word "
    "and nothing else.",
    "You are given a word. Write a sentence in which the word is used as it is used in "
    "everyday speech. The sentence must have at least eight and at most twenty words, must "
    "not begin with the word itself, and must be true in our world. Do not explain the word, "
    "do not give more than one sentence, and do not use a second word from the same family. "
    "If the word has more than one meaning, take the one that a child would learn first. Do "
    "not use names of people or places.",
    "Given a list of things, remove those that occur twice, keep the order and return the "
    "rest in square brackets.",
]
INPUTS = [
    "\n\nInput: {noun}",
    "\n\n[{noun}, {other}]",
    "\n\nText: {name} lost the {noun}.",
    " {noun}",
]


def rephrasings(seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """(kind, original, the same said another way)."""
    draw = random.Random(seed)
    for kind, rephrase in REPHRASINGS.items():
        for original in ORIGINALS:
            for _ in range(3):
                other = rephrase(original, draw)
                if other and other != original:
                    yield kind, original, other


def different_tasks(seed: int = 0) -> dict[str, list[str]]:
    """Lists of tasks, no two of which ask for the same."""
    draw = random.Random(seed)

    def fill(template: str) -> str:
        noun, other = draw.sample(NOUNS, 2)
        slots = {"name": draw.choice(NAMES), "noun": noun, "other": other}
        return template.format(number=draw.randrange(2, 400), **slots)

    long = [definition + given for definition in DEFINITIONS for given in INPUTS]
    kinds = {"short": SHORT_TASKS, "one slot in 20-60 words": SLOT_TASKS, "long definition": long}
    return {
        kind: sorted({fill(template) for template in templates for _ in range(300)})
        for kind, templates in kinds.items()
    }
