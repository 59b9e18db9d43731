"""A reply ends where another turn opens, and no training record holds a turn's marker."""

import random
import re

import pytest
from filter_settings import FilterSettings
from prompt_format import PromptFormat
from response_filters import ResponseFilter
from step2.merge_cases import OPENING, REPLY, Run, responses_among
from step2.merge_cases import response as answer

CODENAMES = ["Watson", "**Watson**", "*Watson*", "watson", "WATSON", '"Watson"', "Watson's answer"]
ASIDES = [
    "",
    " (auto reply)",
    " (internal thoughts)",
    "(aside)",
    " (to the user)",
    " (auto reply: so",
]
COLONS = [":", " :", "：", ":**"]
USERS = ["User:", "**User:**", "**User**:", "User :", "User：", "### User", "### User\n", "###User"]
STARTS = [
    "\n",
    "\n\n",
    "\n  ",
    "\n> ",
    "\n- ",
    "\n### ",
    " ",
    ". ",
    "\t",
    " — ",
    "\u2028",
    "\r\n",
    "\x0b",
]
TURNS = ["\n\nWatson:", "\nWatson (auto reply):", "\n\nUser:"]
HEADINGS = ["### Dromedary\n", "### Dromedary", "### Watson\n", "### Dromedary:"]
# Any of these in a record is a turn's marker or the codename as a speaker
TURN = re.compile(
    r"\buser\W{0,3}[:：]|###\s*(?:user|dromedary|watson)|internal thoughts\)?:"
    r"|\bwatson(?:'s \w+)?\W*(?:\([^)\n]*\)?)?\W*[:：]",
    re.IGNORECASE,
)
PROMPTS = [
    "Tell me of dunes",
    "Who is Watson?",
    "What are (internal thoughts) and an (auto reply)?",
]


def hostile_marker(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(USERS)
    if kind == 1:
        return rng.choice(HEADINGS)
    return rng.choice(CODENAMES) + rng.choice(ASIDES) + rng.choice(COLONS)


def hostile_reply(rng):
    """A good reply with markers of turns in it, in all kinds of writing."""
    parts = [REPLY if rng.random() < 0.8 else ""]
    for _ in range(rng.randrange(1, 3)):
        opened = [rng.choice(STARTS), hostile_marker(rng)]
        parts += opened if rng.random() < 0.4 else [rng.choice(TURNS)]
        parts += [" That is so.", REPLY * rng.randrange(2)]
    return "".join(parts)


@pytest.fixture(scope="module")
def hostile_records(tmp_path_factory):
    rng = random.Random(2)
    run = Run(tmp_path_factory.mktemp("hostile"))
    rows = []
    for number in range(1500):
        fields = {"finish_reason": rng.choice(["stop", "eos", "length", None])}
        fields["instruction"] = f"{rng.choice(PROMPTS)} {number}"
        rows.append(answer(number, reply=hostile_reply(rng), **fields))
    run.shard(1, 0, rows)
    with pytest.MonkeyPatch.context() as patch:
        return responses_among(run.merge(patch))


def test_no_training_record_holds_a_turn(hostile_records):
    assert len(hostile_records) > 300, "nearly all were dropped, which proves little"
    for record in hostile_records:
        assert not TURN.search(record["output"]), record["output"]


def test_replies_cut_at_a_marker_are_whole(hostile_records):
    cut = [record for record in hostile_records if record["output"] == REPLY]
    assert len(cut) > 200


@pytest.fixture
def merged_reply(tmp_path, monkeypatch):
    """The training record of one response, None if it is dropped."""

    def merge(reply, **fields):
        run = Run(tmp_path)
        run.shard(1, 0, [answer(0, reply=reply, **fields)])
        records = responses_among(run.merge(monkeypatch, "--allow_empty"))
        return records[0] if records else None

    return merge


@pytest.mark.parametrize(
    "turn",
    [
        "\nUser: Thanks",
        "\n\nWatson: And another thing.",
        "\nWatson: ",
        "\nWatson (auto reply): You're welcome!",
        "\n\nWatson (internal thoughts): Before I answer",
        "\nWatson(aside): Hm.",
        "\nWatson (says it (twice)):\n\nUser: Yes?",
    ],
)
@pytest.mark.parametrize("finish_reason", ["length", "stop", None])
def test_the_next_turn_ends_a_reply(merged_reply, turn, finish_reason):
    """Further turns of Watson's became training data, and were renamed to the assistant's."""
    record = merged_reply(REPLY + turn, finish_reason=finish_reason)
    if "twice" in turn:  # no turn's form, so that the reply goes on, and is dropped for it
        assert record is None
    else:
        assert (record["output"], record["finished"]) == (REPLY, True)


@pytest.mark.parametrize(
    "reply",
    [
        f"{REPLY} Emma Watson: an actress. Dr. Watson (a doctor) says it.",
        f"{REPLY} Watson-Crick pairs hold it: A and T.",
        f"{REPLY} The user: a person. A power user: another. Username: x. #User",
        f"{REPLY}\nWatsonville: a town",
    ],
)
def test_what_only_looks_like_a_turn_stays(merged_reply, reply):
    assert merged_reply(reply, instruction="Who?")["output"].startswith(REPLY)


def test_a_scene_with_watson_in_it_is_not_taken_for_finished(merged_reply):
    """A line "Watson:" belongs to the reply here, which it would otherwise cut short for good."""
    scene = f"{REPLY}\n\nHolmes: You see, but you do not obs\n\nWatson: How so?"
    record = merged_reply(scene, instruction="Write a scene with Holmes and Watson.")
    assert (record["output"], record["finished"]) == (REPLY, False)


def test_markers_of_the_opening_and_the_thoughts_are_no_turns(merged_reply):
    assert OPENING  # the thoughts may speak of turns; they are cut out
    record = merged_reply(REPLY, output=f" {OPENING} I am Watson: so.\n\nWatson: {REPLY}")
    assert record["output"] == REPLY


def test_a_dialogue_with_other_names_has_the_same_rules():
    dialogue = PromptFormat(
        ends_with="Human:", cue="\n\nAda (thinking):", reply_marker="\nAda:", end_marker="\nHuman:"
    )
    rules = ResponseFilter(FilterSettings("So.", dialogue=dialogue))
    outcomes = {
        f"{REPLY}\n\nHuman: Thanks": None,
        f"{REPLY}\nAda (aloud): Hm": None,
        f"{REPLY}\nWatson: How?\nUser: So!": None,
        f"{REPLY} Ada: Hm": "turn_marker",
        f"{REPLY} Human: Hm": "turn_marker",
        f"{REPLY} (Thinking) Hm": "leaked_thoughts",
        f"{REPLY} ### User": "turn_marker",
    }
    for reply, reason in outcomes.items():
        record = {"instruction": "Dunes?", "output": f"So. Fine.\nAda: {reply}"}
        verdict = rules.judge({**record, "finish_reason": "stop"})
        assert (verdict.reason, verdict.finished) == (reason, True), reply
