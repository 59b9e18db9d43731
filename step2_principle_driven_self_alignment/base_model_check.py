"""Does the base model follow the principle prompt, or does it only write in the prompt's form?

A model that is too weak still opens its thoughts as it should and ends its replies, so that the
share of kept responses looks healthy. MEASURES tells more: each is taken of a sample of responses
and has a limit, set by what a model trained for the prompt, an instruct model of 135 million
parameters and responses broken by hand show (the README has their figures).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from prompt_format import PromptFormat, joined_prompt
from response_text import split_turns
from unfinished_text import CJK

SAMPLE = 4000  # responses that a merge measures
FIRST_PROMPTS = 64  # those that a generating launch measures
LEAST_REPLIES = 24  # fewer tell nothing
OTHER_PROMPTS = 5  # that each reply is held against, beside its own
NEARLY_EQUAL = 0.8  # Jaccard similarity of two replies' words
PRINCIPLE_LINE = re.compile(r"^(\d{1,2})\.? \(([^()\n]{1,40})\)", re.MULTILINE)
NAMED_PRINCIPLE = re.compile(r"\bprinciples? (\d{1,2}) \(([^()\n]{1,40})\)", re.IGNORECASE)
ABOUT_THE_USER = re.compile(r"\bthe user\b", re.IGNORECASE)
WORD = re.compile(rf"[^\W\d_{CJK}]{{4,}}")
CJK_PAIR = re.compile(rf"(?=([{CJK}]{{2}}))")
STEM = 5  # letters; "tourist" and "tourism" are one word
# Words of requests and replies in general, which two texts share whatever they are about
COMMON = """
about after also because been before being both could describe does each explain following from
give have here into just like list make many more most much name only other over please sentence
should some such than that their them then there these they this those three very want were what
when where which while will with would write your
"""
COMMON_STEMS = frozenset(word[:STEM] for word in COMMON.split())


@dataclass(frozen=True)
class MeasuredResponse:
    """What the measures look at. A response without a reply has None for the reply's words."""

    id: str
    kept: bool
    prompt_words: frozenset[str]
    reply_words: frozenset[str] | None
    named: frozenset[tuple[int, str]]  # principles that the thoughts name
    speaks_of_user: bool


def read_principles(principle_prompt: str) -> dict[int, str]:
    """Number and name of each principle of a prompt, from lines such as `8 (candor). …`."""
    return {int(number): name.lower() for number, name in PRINCIPLE_LINE.findall(principle_prompt)}


def named_principles(thoughts: str) -> frozenset[tuple[int, str]]:
    """The principles that thoughts name as "principle 8 (candor)", fitting or not."""
    return frozenset(
        (int(number), name.lower()) for number, name in NAMED_PRINCIPLE.findall(thoughts)
    )


def fits(principle: tuple[int, str], names: dict[int, str]) -> bool:
    """Whether a principle's number and name belong together; True where no names are known."""
    number, name = principle
    return not names or names.get(number) == name


def measure_response(
    record: dict[str, Any], *, kept: bool, dialogue: PromptFormat
) -> MeasuredResponse:
    """Measures one response record."""
    turns = split_turns(record["output"], dialogue)
    prompt = joined_prompt(record["instruction"], record.get("input") or "")
    return MeasuredResponse(
        id=record["id"],
        kept=kept,
        prompt_words=content_words(prompt),
        reply_words=None if turns.reply is None else content_words(turns.reply),
        named=named_principles(turns.thoughts),
        speaks_of_user=bool(
            turns.reply and ABOUT_THE_USER.search(turns.reply) and "user" not in prompt.lower()
        ),
    )


def content_words(text: str) -> frozenset[str]:
    """What a text is about: stems of its longer words, and pairs of CJK characters."""
    stems = {word[:STEM] for word in WORD.findall(text.casefold())} - COMMON_STEMS
    return frozenset(stems.union(CJK_PAIR.findall(text)))


def share_with_reply(sample: Sequence[MeasuredResponse], _: dict[int, str]) -> float:
    return sum(item.reply_words is not None for item in sample) / len(sample)


def share_of_fitting(sample: Sequence[MeasuredResponse], names: dict[int, str]) -> float | None:
    """Of the principles that thoughts name; 0 if they name none, None if the prompt has none."""
    if not names:
        return None
    named = [principle for item in _replied(sample) for principle in item.named]
    return sum(fits(principle, names) for principle in named) / max(len(named), 1)


def share_touching(sample: Sequence[MeasuredResponse], _: dict[int, str]) -> float:
    """How often a reply takes up more of its own prompt than of another one; ties count half.

    Each reply is held against the prompts of the next few: the order by id is as good as shuffled.
    """
    comparisons = [words_in_common(sample, shift) for shift in range(1, OTHER_PROMPTS + 1)]
    return mean(
        (own > other) + (own == other) / 2
        for owns, others in comparisons
        for own, other in zip(owns, others, strict=True)
    )


def words_in_common(
    sample: Sequence[MeasuredResponse], shift: int = 1
) -> tuple[list[float], list[float]]:
    """The share of a prompt's content words that each reply takes up: of its own prompt, and of the
    one that is `shift` places further in the order of ids.
    """
    replied = sorted(_replied(sample), key=lambda item: item.id)
    shifted = [*replied[shift:], *replied[:shift]]
    own = [_taken_up(item.prompt_words, item) for item in replied]
    others = [
        _taken_up(other.prompt_words, item) for item, other in zip(replied, shifted, strict=True)
    ]
    return own, others


def _taken_up(prompt_words: frozenset[str], item: MeasuredResponse) -> float:
    return len(prompt_words & item.reply_words) / max(len(prompt_words), 1)


def share_of_near_equal(sample: Sequence[MeasuredResponse], _: dict[int, str]) -> float:
    """The share of replies to whose words another reply's are nearly equal.

    Similar sets share one of their rarest words, so only those are compared (prefix filtering,
    Bayardo, Ma and Srikant 2007).
    """
    replies = [item.reply_words for item in _replied(sample) if item.reply_words]
    frequency = Counter(word for words in replies for word in words)
    by_word: dict[str, list[int]] = defaultdict(list)
    near_equal = set()
    for index, words in enumerate(replies):
        rarest = sorted(words, key=lambda word: (frequency[word], word))
        rarest = rarest[: len(words) - int(NEARLY_EQUAL * len(words)) + 1]
        for other in {other for word in rarest for other in by_word[word]}:
            common = len(words & replies[other])
            if common >= NEARLY_EQUAL * (len(words) + len(replies[other]) - common):
                near_equal |= {index, other}
        for word in rarest:
            by_word[word].append(index)
    return len(near_equal) / len(replies) if replies else 0.0


def share_speaking_of_user(sample: Sequence[MeasuredResponse], _: dict[int, str]) -> float:
    replied = _replied(sample)
    return sum(item.speaks_of_user for item in replied) / len(replied)


def _replied(sample: Sequence[MeasuredResponse]) -> list[MeasuredResponse]:
    return [item for item in sample if item.reply_words is not None]


@dataclass(frozen=True)
class Measure:
    """A share from 0 to 1, sound from `least` to `most`; and what to expect of a model that isn't.

    `meaning` completes "16 % of …".
    """

    name: str
    meaning: str
    take: Callable[[Sequence[MeasuredResponse], dict[int, str]], float | None]
    expect: str
    least: float = 0.0
    most: float = 1.0


MEASURES = (
    Measure(
        "with_reply",
        "responses hold thoughts and a reply",
        share_with_reply,
        "most of the work to be thrown away",
        least=0.5,
    ),
    Measure(
        "principles_fit",
        "named principles fit their number",
        share_of_fitting,
        "thoughts that guide nothing",
        least=0.7,
    ),
    Measure(
        "touches_prompt",
        "replies touch their own prompt more than another one (chance: 50 %)",
        share_touching,
        "replies that miss the question",
        least=0.8,
    ),
    Measure(
        "near_equal",
        "replies nearly equal another one",
        share_of_near_equal,
        "the same reply over and over",
        most=0.1,
    ),
    Measure(
        "speaks_of_user",
        'replies speak of "the user" instead of to them',
        share_speaking_of_user,
        "thoughts inside replies",
        most=0.1,
    ),
)


def check_base_model(sample: Sequence[MeasuredResponse], names: dict[int, str]) -> dict[str, Any]:
    """The verdict on the base model in one line, and the measures behind it, for a report."""
    values = take_measures(sample, names)
    kept = take_measures([item for item in sample if item.kept], names)
    own, others = words_in_common(sample) if values else ([], [])
    return {
        "verdict": describe(values),
        "sample": len(sample),
        "measures": [
            {
                "measure": measure.name,
                "meaning": measure.meaning,
                "all": values.get(measure.name),
                "kept": kept.get(measure.name),
                "least": measure.least,
                "most": measure.most,
            }
            for measure in MEASURES
        ],
        "words_in_common": {"own_prompt": _deciles(own), "another_prompt": _deciles(others)},
    }


class EarlyCheck:
    """The verdict on the base model by the first prompts of a launch, once all are answered.

    Not by the first responses: failed ones are short, and so the first to be there.
    """

    def __init__(self, prompt_ids: Sequence[str], names: dict[int, str]) -> None:
        """`prompt_ids`: in the order of answering; `names`: the prompt's principles."""
        self.verdict: str | None = None
        self._waiting = set(prompt_ids[:FIRST_PROMPTS])
        self._names = names
        self._sample: list[MeasuredResponse] = []

    def add(self, record: dict[str, Any], *, kept: bool, dialogue: PromptFormat) -> bool:
        """Takes a response record in; True when the verdict has become known by it."""
        if record["id"] not in self._waiting:
            return False
        self._waiting.remove(record["id"])
        self._sample.append(measure_response(record, kept=kept, dialogue=dialogue))
        if not self._waiting:
            self.verdict = describe(take_measures(self._sample, self._names))
        return not self._waiting


def take_measures(
    sample: Sequence[MeasuredResponse], names: dict[int, str]
) -> dict[str, float | None]:
    """Each measure by its name; without enough replies only that of the replies, or none."""
    if len(_replied(sample)) >= LEAST_REPLIES:
        return {measure.name: measure.take(sample, names) for measure in MEASURES}
    if len(sample) >= 2 * LEAST_REPLIES:
        return {MEASURES[0].name: MEASURES[0].take(sample, names)}
    return {}


def describe(values: dict[str, float | None]) -> str:
    """The verdict in words: "follows the prompt", or what is weak and what to expect of it."""
    if not values:
        return f"can't be told from fewer than {LEAST_REPLIES} replies"
    weak = [
        measure
        for measure in MEASURES
        if values.get(measure.name) is not None
        and not measure.least <= values[measure.name] <= measure.most
    ]
    if not weak:
        return "follows the prompt"
    findings = ", ".join(
        f"{values[measure.name]:.0%} of {measure.meaning}".replace("%", " %", 1) for measure in weak
    )
    expected = " and ".join(measure.expect for measure in weak)
    return f"weak: {findings}; expect {expected}. A larger base model is the remedy"


def _deciles(shares: list[float]) -> list[int]:
    """How many of the shares lie in each tenth from 0 to 1; exact zeros come first, apart."""
    counts = [0] * 11
    for share in shares:
        counts[0 if share == 0 else min(int(share * 10), 9) + 1] += 1
    return counts
