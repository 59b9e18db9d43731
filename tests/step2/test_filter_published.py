"""`--published_rules` against the eight steps of the first implementation, written down anew."""

import random
import re

import pytest
from filter_settings import FilterSettings
from response_filters import ResponseFilter
from response_judging import JudgingSettings, named_reply
from step2.merge_cases import OPENING, REPLY

BLACKLIST = {"Lisbon": "the weather"}
SETTINGS = FilterSettings(OPENING, BLACKLIST, published_rules=True)
LONG = "How do dunes form and move over the land?"


def judge(output, instruction="Dunes?", input_text="", finish_reason=None):
    record = {"instruction": instruction, "input": input_text, "output": output}
    return ResponseFilter(SETTINGS).judge({**record, "finish_reason": finish_reason})


def replied(reply, ended=True):
    return f"{OPENING}\n\nWatson: {reply}" + "\n\nUser: Good job!" * ended


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (replied(REPLY), None),
        # 1: it starts with the required sentence
        ("So. " + replied(REPLY), "wrong_opening"),
        (f" {replied(REPLY)}", None),  # the space behind the cue
        # 2: a reply after an empty line
        (f"{OPENING}\nWatson: {REPLY}\n\nUser: Hi", "no_reply"),
        # 4: an ended reply with its marker "\n\n### User\n" has 160 characters
        (replied("a" * 149), None),
        (replied("a" * 148), "too_short"),
        (replied("a " * 20, ended=False), None),  # any length where it did not end
        # 5 needs a prompt, below; 6: a phrase as any part of the text
        (replied(REPLY + " Lisbonne"), "exemplar_phrase"),
        (replied(REPLY + " lisbon"), None),
        # 7: nothing is there; of a single word nothing is taken away
        (replied("", ended=False), "empty"),
        (replied("Half", ended=False), None),
    ],
)
def test_each_step_decides_as_written(output, reason):
    assert judge(output).reason == reason


@pytest.mark.parametrize(
    ("reply", "kept"),  # less its last word, as it did not end
    [
        ("One. Two. One. Three.", "One. Two. One."),  # "One." and " One." differ
        ("a, b, c, b, d", "a, b,"),
        ("x\n\n\ny. . end", "x\n\n\ny. ."),  # lone delimiters may come again
        ("x!!! y", "x!!!"),
        ("`code` and `code` here", "`code` and"),
        ("it: so; so it: so; no", "it: so; so"),
        ("a. b.\nc. b. d", "a."),
    ],
)
def test_step_3_keeps_pieces_until_one_occurs_again(reply, kept):
    assert judge(replied(reply, ended=False)).reply == kept


def test_step_4_cuts_an_ended_reply_and_shortens_another():
    assert judge(replied(f"{REPLY} The")).reply == f"{REPLY} The"
    assert judge(replied(f"{REPLY} The")).finished
    assert judge(replied(f"{REPLY} The", ended=False)).reply == REPLY
    assert not judge(replied(f"{REPLY} The", ended=False)).finished


def test_step_5_drops_echoes_and_takes_a_long_input_as_the_instruction():
    assert judge(replied(f"{LONG} {REPLY}"), LONG).reason == "prompt_echo"
    assert judge(replied(f"{LONG} {REPLY}"), "Say:", LONG).reason == "prompt_echo"
    assert judge(replied(f"{REPLY} {'a' * 16} "), "a" * 16).reason is None
    assert judge(replied(f"{REPLY} {'a' * 17} "), "a" * 17).reason == "prompt_echo"
    verdict = judge(replied(REPLY), "Answer:", LONG)
    assert (verdict.instruction, verdict.input) == (LONG, "")
    verdict = judge(replied(REPLY), "Answer:", "short input")
    assert (verdict.instruction, verdict.input) == ("Answer:", "short input")


def test_step_8_names_the_assistant_everywhere():
    verdict = judge(replied(f"{REPLY} Ask Dr. Watson or Watsonville."))
    named = named_reply(verdict, JudgingSettings(SETTINGS, "Dromedary", 42))
    assert named == f"{REPLY} Ask Dr. Dromedary or Dromedaryville."


def first_implementation(text, instruction, input_text):
    """The eight steps, straight: the training pair, or None where the response is dropped."""
    if not text.startswith(OPENING):  # 1
        return None
    if "\n\nWatson:" not in text:  # 2
        return None
    reply = text[text.index("\n\nWatson:") + len("\n\nWatson:") :].strip()
    seen, kept = [], ""  # 3
    for piece in re.findall(r"[^\n.?!;:,`]*[\n.?!;:,`]|[^\n.?!;:,`]+\Z", reply):
        if piece in seen and piece not in list("\n.?!;:,`"):
            break
        seen.append(piece)
        kept += piece
    reply = kept.strip()
    if "\n\nUser:" in reply:  # 4
        reply = reply[: reply.index("\n\nUser:")].strip() + "\n\n### User\n"
        if len(reply) < 160:
            return None
    else:
        reply = reply.rsplit(" ", 1)[0]
    for part in (instruction, input_text):  # 5
        if len(part) > 16 and part in reply:
            return None
    if len(input_text) > 16:
        instruction, input_text = input_text, ""
    if any(phrase in reply for phrase in BLACKLIST):  # 6
        return None
    if not reply:  # 7
        return None
    return instruction, input_text, reply.replace("Watson", "Dromedary")  # 8


def test_decisions_on_random_responses_are_those_of_the_steps():
    rng = random.Random(5)
    pieces = [REPLY[:60], REPLY[60:], "Sand. ", "Wind, ", "\n", "\n\n", "`x`", "!", "Watson ", LONG]
    pieces += [
        "\n\nUser:",
        "\n\nUser: Hi.",
        "\nUser:",
        "Lisbon ",
        " ",
        "1. one\n",
        "tall sea grass",
    ]
    outcomes = []
    for _ in range(4000):
        opening = OPENING if rng.random() < 0.9 else OPENING[1:]
        marker = "\n\nWatson:" if rng.random() < 0.9 else "\nWatson:"
        chosen = rng.choices(pieces, weights=[3, 3] + [1] * 15, k=rng.randrange(12))
        text = opening + rng.choice(["", " So."]) + marker + " " + "".join(chosen)
        prompts = rng.choice([("Dunes?", ""), (LONG, ""), ("Say:", LONG), ("Say:", "short")])
        expected = first_implementation(text, *prompts)
        verdict = judge(text, *prompts)
        assert verdict.kept == (expected is not None), (text, prompts)
        if expected is not None:
            reply = named_reply(verdict, JudgingSettings(SETTINGS, "Dromedary", 42))
            reply += "\n\n### User\n" * verdict.finished
            assert (verdict.instruction, verdict.input, reply) == expected
        outcomes.append(verdict.reason)
    assert {outcomes.count(reason) > 20 for reason in set(outcomes)} == {True}
    assert len(set(outcomes)) >= 6, "the responses are too much alike"


def test_a_fragment_that_was_given_up_is_dropped():
    """It was kept as a reply that did not end."""
    assert judge(replied(REPLY, ended=False), finish_reason="abandoned").reason == "given_up"


def test_the_generator_cuts_what_the_first_one_left():
    """Our generator ends a response before the user's turn and says `stop`."""
    cut = f" {OPENING}\n\nWatson: {REPLY}"
    assert judge(cut, finish_reason="stop") == judge(f"{cut}\n\nUser:")
    assert not judge(cut, finish_reason="length").finished
