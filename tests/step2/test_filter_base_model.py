"""The verdict on the base model: sound responses follow the prompt, broken ones are found out."""

import random

import pytest
from base_model_check import (
    MEASURES,
    EarlyCheck,
    check_base_model,
    measure_response,
    read_principles,
)
from prompt_format import SELF_ALIGN
from step2.merge_cases import OPENING, PRINCIPLE_PROMPT, Run
from step2.merge_cases import response as answer

NAMES = read_principles(PRINCIPLE_PROMPT.read_text())
TOPICS = [
    "glaciers",
    "violins",
    "beekeeping",
    "volcanoes",
    "sourdough",
    "origami",
    "lighthouses",
    "telescopes",
]
SYLLABLES = [
    "ba",
    "do",
    "fi",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pa",
    "re",
    "si",
    "tu",
    "va",
    "wo",
    "xe",
    "zi",
]


def made_up_word(rng):
    return "".join(rng.choices(SYLLABLES, k=4))


def sound_rows(count=120):
    """Replies that speak of what was asked, behind thoughts that name principles rightly."""
    rng = random.Random(5)
    rows = []
    for number in range(count):
        topic = f"{TOPICS[number % len(TOPICS)]} {made_up_word(rng)}"
        first, second = rng.sample(sorted(NAMES), 2)
        thoughts = f"Principle {first} ({NAMES[first]}) and principle {second} ({NAMES[second]})."
        filler = " ".join(made_up_word(rng) for _ in range(20))
        reply = f"Of {topic} much can be said: {filler}. So {topic} stay a wide field to study."
        output = f" {OPENING} {thoughts}\n\nWatson: {reply}"
        rows.append(answer(number, instruction=f"Tell me about {topic}.", output=output))
    return rows


def shuffled(rows):
    outputs = [row["output"] for row in rows]
    random.Random(1).shuffle(outputs)
    return [{**row, "output": output} for row, output in zip(rows, outputs, strict=True)]


def with_output(rows, change):
    return [{**row, "output": change(row["output"])} for row in rows]


BROKEN = {
    "with_reply": lambda rows: with_output(rows, lambda text: text.partition("\n\nWatson:")[0]),
    "principles_fit": lambda rows: with_output(
        rows, lambda text: text.replace("inciple ", "inciple 1")
    ),
    "touches_prompt": shuffled,
    "near_equal": lambda rows: with_output(rows, lambda text: rows[0]["output"] + text[-9:]),
    "speaks_of_user": lambda rows: with_output(rows, lambda text: f"{text} The user wants it."),
}


def check(rows, names=NAMES):
    sample = [measure_response(row, kept=True, dialogue=SELF_ALIGN) for row in rows]
    return check_base_model(sample, names)


def off(report):
    """The measures that are not sound."""
    return {
        row["measure"]
        for row in report["measures"]
        if row["all"] is not None and not row["least"] <= row["all"] <= row["most"]
    }


def test_the_prompt_names_its_principles():
    assert len(NAMES) == 17
    assert NAMES[8] == "knowledge recitation"


@pytest.mark.parametrize("count", [64, 120])
def test_sound_responses_follow_the_prompt(count):
    report = check(sound_rows(count))
    assert report["verdict"] == "follows the prompt"
    assert {row["measure"] for row in report["measures"]} == {measure.name for measure in MEASURES}
    own, other = report["words_in_common"].values()
    assert sum(own) == sum(other) == count
    assert own[0] == 0 and other[0] > count / 2


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_each_measure_finds_its_fault(measure):
    report = check(BROKEN[measure.name](sound_rows()))
    assert measure.name in off(report)
    assert report["verdict"].startswith("weak: ")
    assert measure.meaning in report["verdict"] and measure.expect in report["verdict"]


def test_a_measure_at_its_limit_is_sound():
    """Of a hundred namings seventy must fit."""
    for wrong, weak in ((30, False), (31, True)):
        rows = sound_rows(100)
        for number, row in enumerate(rows):
            named = "3 (informative)" if number < wrong else "2 (informative)"
            reply = row["output"].partition("\n\n")[2]
            row["output"] = f" {OPENING} Principle {named} applies.\n\n{reply}"
        assert ("principles_fit" in off(check(rows))) == weak


def test_few_replies_are_no_ground_for_a_verdict():
    assert check(sound_rows(23))["verdict"] == "can't be told from fewer than 24 replies"
    assert check(sound_rows(24))["verdict"] == "follows the prompt"
    assert check([])["verdict"].startswith("can't be told")


def test_without_principles_in_the_prompt_none_can_be_wrong():
    report = check(BROKEN["principles_fit"](sound_rows()), names={})
    assert report["verdict"] == "follows the prompt"


def test_the_replies_of_another_script_touch_their_prompts_too():
    rng = random.Random(3)
    rows = []
    for number in range(60):
        topic = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(4))
        rest = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(80))
        output = f" {OPENING} Principle 2 (informative).\n\nWatson: {topic}。{rest}"
        rows.append(answer(number, instruction=f"{topic}是什么？", output=output))
    assert check(rows)["verdict"] == "follows the prompt"


def test_the_merge_says_it_in_log_report_page_and_card(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    run = Run(tmp_path)
    rows = shuffled(sound_rows())
    run.manifest([{**row, "output": ""} for row in rows])
    run.shard(1, 0, rows)
    run.merge(monkeypatch, "--min_length", 0)
    verdict = run.report()["base_model"]["verdict"]
    assert verdict.startswith("weak: ") and "replies that miss the question" in verdict
    assert f"base model: {verdict}" in caplog.text
    for name in ("merged.report.html", "merged.README.md"):
        assert verdict in (tmp_path / name).read_text()


def test_two_files_of_one_run_are_judged_alike(tmp_path, monkeypatch):
    """The sample doesn't depend on which group wrote a response, nor on the files' order."""
    reports = []
    for size in (1, 3):
        run = Run(tmp_path, f"run{size}")
        for rank in range(size):
            run.shard(size, rank, sound_rows()[rank::size])
        name = f"merged{size}"
        run.merge(monkeypatch, pattern=f"run{size}_*.jsonl", output=f"{name}.json")
        reports.append(run.report(name)["base_model"])
    assert reports[0] == reports[1]


def test_the_generator_judges_by_its_first_prompts_not_its_first_responses():
    """Responses that are given up are the first to be there, and would count too much."""
    rows = sound_rows(100)
    early = EarlyCheck([row["id"] for row in rows], NAMES)
    for row in rows[64:]:
        cut = {**row, "output": " Well.", "finish_reason": "abandoned"}
        assert not early.add(cut, kept=False, dialogue=SELF_ALIGN)
    known = [early.add(row, kept=True, dialogue=SELF_ALIGN) for row in rows[63::-1]]
    assert known == [False] * 63 + [True]
    assert early.verdict == "follows the prompt"
    assert not early.add(rows[0], kept=True, dialogue=SELF_ALIGN)
