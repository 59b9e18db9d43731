"""Giving up early is exact: what `cannot_be_kept` names, no continuation can put right.

The data set must be the same with and without giving up. So for many responses, real in form or
wild, and for many of their beginnings: if the beginning is given up, the whole is dropped.
"""

import random
from collections import Counter

import pytest
from filter_settings import FilterSettings, load_blacklist
from prompt_format import SELF_ALIGN
from response_filters import RULES, ResponseFilter
from step2.merge_cases import OPENING, REPLY

EARLY = {rule.name for rule in RULES if rule.early}
INSTRUCTION = "Tell me how the dunes form"
CHINESE = "沙丘由风吹动沙粒而形成，草木把它们固定下来。"
MARKERS = ["\n\nWatson:", "\nWatson:", "\n\nUser:", "\nUser:", " User:", "\nWatson (auto reply):"]
MARKERS += ["\n\nWatson (internal thoughts):", " Watson:", "(auto reply)", "(internal thoughts)"]
MARKERS += [
    "\nWatson (to you):",
    "\nWatson (so",
    "\nWatson (so it is)",
    "Watson's answer:",
    "### User ",
]
MARKERS += [
    "**User:** ",
    "\nWatson(aside):",
    "\n Watson (aside): ",
    "\nWatson",
    " (",
    "):",
    "\nUser",
]
PHRASES = ["Lisbon", "Lisbonne", "lichens", "800 euros", "felt unsure lately", "Vildósola"]
LOOPS = [
    "very ",
    "It goes on and on and on. ",
    "ha",
    "沙丘很美。",
    "1. Dig.\n",
    "| --- ",
    "😂",
    "- a\n",
]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\u3000", "\n- ", "\n12. ", "\r\n", "\x0b"]
WORDS = [*REPLY.split(), "7", "(candor)", "principle", "Σάς", "İs", "ß", "e\u0301", "x" * 30, "---"]
ENDINGS = (None, "stop", "eos", "length", "abandoned", "too_long")


def loop(rng):
    return rng.choice(LOOPS) * rng.randrange(2, 150)


def fragment(rng):
    """A piece of a response: mostly words, else what one of the rules looks at."""
    makers = (
        lambda: " ".join(rng.choices(WORDS, k=rng.randrange(1, 30))),
        lambda: REPLY[: rng.randrange(len(REPLY))],
        lambda: rng.choice(SPACES),
        lambda: rng.choice(MARKERS),
        lambda: rng.choice(PHRASES),
        lambda: CHINESE[: rng.randrange(len(CHINESE))],
        lambda: INSTRUCTION.replace(" ", rng.choice([" ", "  ", "\n", ", "]), 2),
        lambda: rng.choice([OPENING, OPENING[:30], "principle 7 (candor)", "Principle 12 (static"]),
        lambda: loop(rng),
    )
    return rng.choices(makers, weights=[6, 3, 6, 1, 1, 2, 1, 1, 1])[0]()


def response(rng):
    opening = OPENING if rng.random() < 0.95 else OPENING[: rng.randrange(len(OPENING))]
    thoughts = " ".join(rng.choices(WORDS, k=rng.randrange(20)))
    marker = "\n\nWatson: " if rng.random() < 0.8 else ""
    fragments = (fragment(rng) for _ in range(rng.randrange(14)))
    return rng.choice(["", " ", "\n"]) + opening + " " + thoughts + marker + "".join(fragments)


@pytest.fixture(scope="module")
def settings(repository):
    return FilterSettings(OPENING, load_blacklist(repository / "prompts/exemplar_blacklist.txt"))


def test_no_continuation_of_a_given_up_beginning_is_kept(settings):
    rng = random.Random(11)
    rules = ResponseFilter(settings)
    given_up, spared = Counter(), 0
    for _ in range(2000):
        text = response(rng)
        instruction = rng.choice([INSTRUCTION, "Hi", "Of Lisbon, a lichen, principle 7?", "沙丘？"])
        record = {"instruction": instruction, "input": "", "output": text}
        record["finish_reason"] = rng.choice(ENDINGS)
        kept = rules.judge(record).kept
        for end in sorted(rng.randrange(len(text) + 1) for _ in range(6)):
            broken = "\ufffd" * rng.choice([0, 0, 1, 2])  # the first bytes of a character
            rule = rules.cannot_be_kept(instruction, "", text[:end] + broken)
            assert not (rule and kept), (rule, text[:end], text[end:])
            given_up[rule] += 1
        spared += kept
    assert {rule for rule in given_up if rule} == EARLY, "some rules were never tried"
    assert min(given_up.values()) >= 10, given_up
    assert spared >= 100, "too few responses that are kept"


def first_given_up(rules, text):
    """The shortest beginning that is given up, by bisection; None if the text isn't."""
    if rules.cannot_be_kept(INSTRUCTION, "", text) is None:
        return None
    spared, given_up = -1, len(text)
    while given_up - spared > 1:
        middle = (spared + given_up) // 2
        if rules.cannot_be_kept(INSTRUCTION, "", text[:middle]) is None:
            spared = middle
        else:
            given_up = middle
    return text[:given_up]


def test_at_the_very_moment_of_giving_up_nothing_saves_a_response(settings):
    """The last word may yet become another one, or a turn marker; a long new text may follow."""
    rng = random.Random(12)
    rules = ResponseFilter(settings)
    fresh = " ".join(f"{word}{number}" for number in range(5) for word in REPLY.split())
    suffixes = [
        "",
        "s",
        "ne",
        "x",
        "1",
        "e\u0301",
        "\u0301",
        ".",
        "-",
        ")",
        "沙",
        "\nUser:",
        "ser: ",
        ":",
        "):",
        " (to you):",
        "atson (to you):",
    ]
    tried = Counter()
    for number in range(800):
        starts = [f"{REPLY} {rng.choice(PHRASES)}", loop(rng), "", f"{REPLY}{rng.choice(MARKERS)}"]
        start = starts[number % 4]
        begun = first_given_up(
            rules, f" {OPENING}\n\nWatson: {start} " + fragment(rng) + response(rng)
        )
        if begun is None:
            continue
        tried[rules.cannot_be_kept(INSTRUCTION, "", begun)] += 1
        for suffix in suffixes:
            for reply in (f" {fresh}", f"\n\nWatson: {REPLY}", f"\n\nUser: Hi\n\nWatson: {REPLY}"):
                record = {"instruction": INSTRUCTION, "input": "", "finish_reason": "stop"}
                verdict = rules.judge({**record, "output": begun + suffix + reply})
                assert not verdict.kept, (begun, suffix, reply)
    assert min(tried[rule] for rule in ("exemplar_phrase", "loop", "turn_marker")) >= 10, tried


@pytest.mark.parametrize("turn", ["\n\nUser:", "\nWatson (to you):"])
def test_cutting_the_next_turn_off_saves_no_response(settings, turn):
    """A response that stops is cut before the turn that ended it, which the beginning still had."""
    rng = random.Random(13)
    rules = ResponseFilter(settings)
    tried = 0
    for _ in range(700):
        reply, ended, _ = response(rng).partition(turn)
        seen = reply + ended + " Good"
        if rules.cannot_be_kept("Hi", "", seen) and "\nWatson:" in reply:
            tried += 1
            record = {"instruction": "Hi", "output": reply, "finish_reason": "stop"}
            assert not rules.judge(record).kept, (reply, ended)
    assert tried >= 40


@pytest.mark.parametrize("turn", ["\n\nUser: So", "\n\nWatson: So", "\nWatson (to you): So"])
def test_stopping_at_the_next_turn_changes_no_verdict(settings, turn):
    """The engine stops where the filter cuts; what would have followed decides nothing."""
    rng = random.Random(14)
    rules = ResponseFilter(settings)
    kept = 0
    for number in range(600):
        reply = f" {OPENING} Good.\n\nWatson: {REPLY}" if number % 2 else response(rng)
        if "\nWatson:" not in reply or SELF_ALIGN.next_turn.search(reply.partition("\nWatson:")[2]):
            continue
        record = {"instruction": rng.choice(["Hi", "Who is Watson?"]), "finish_reason": "stop"}
        stopped = rules.judge({**record, "output": reply})
        ending = {"finish_reason": rng.choice(ENDINGS[:4])}
        on = rules.judge({**record, **ending, "output": reply + turn + fragment(rng)})
        assert (stopped.reason, stopped.reply, stopped.finished) == (
            on.reason,
            on.reply,
            on.finished,
        )
        kept += stopped.kept
    assert kept > 200


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.early], ids=lambda rule: rule.name)
def test_each_early_rule_is_found_in_time(settings, rule):
    """A response that the rule drops is given up before a thousand characters more follow."""
    output = rule.example["output"].replace("{opening}", OPENING).replace("{reply}", REPLY)
    instruction = rule.example.get("instruction", "Dunes?")
    rules = ResponseFilter(settings)
    assert rules.cannot_be_kept(instruction, "", output + " " + REPLY * 5) == rule.name


def test_a_good_response_is_never_given_up(settings):
    rules = ResponseFilter(settings)
    text = (
        f" {OPENING} Principle 2 (informative).\n\nWatson: {REPLY}\n\nUser: Good job! Clear context"
    )
    for end in range(len(text) + 1):
        assert rules.cannot_be_kept("How do dunes form?", "", text[:end]) is None, text[:end]


def test_published_rules_give_up_by_the_opening_alone():
    rules = ResponseFilter(FilterSettings(OPENING, {"sea": ""}, published_rules=True))
    assert rules.cannot_be_kept("Hi", "", "Be") is None
    assert rules.cannot_be_kept("Hi", "", "Bee") == "wrong_opening"
    assert rules.cannot_be_kept("Hi", "", f"{OPENING}\n\nWatson: the sea (auto reply)") is None
