"""Verbose Cloning: requests for long replies, what is kept of them, and the records that result."""

import json
import os
import subprocess
import sys

import pytest
from filter_settings import PROMPTS
from prompt_format import read_prompt_format
from step2.merge_cases import Run, read_records
from verbose_filters import RULES, VerboseFilter

STEP2 = "step2_principle_driven_self_alignment"
PROMPT_FILE = PROMPTS / "verbose_cloning_prompt.txt"
DIALOGUE = read_prompt_format(PROMPT_FILE)
LONG = (
    "Rivers carry sand to the sea, where waves sort the grains by weight. Wind then blows the "
    "light ones inland, until tough grasses hold them fast in long and slowly wandering dunes."
)
LIST = "\n".join(f"{number}. Reason {number}: {chr(96 + number) * 9}." for number in range(1, 16))
TWELVE = LIST[: LIST.index("13.")].strip()


@pytest.fixture
def judge():
    rules = VerboseFilter(PROMPT_FILE.read_text(), DIALOGUE)

    def judge(output, finish_reason="stop", instruction="How do dunes form?"):
        record = {"instruction": instruction, "output": output, "finish_reason": finish_reason}
        return rules.judge(record)

    return judge


@pytest.mark.parametrize(
    ("output", "finish_reason", "text", "cut", "finished"),
    [
        (LONG, "stop", LONG, "", True),
        ("Hello!", "eos", "Hello!", "", True),  # short, but ended
        (f"{LONG}\n\n### User\nMore?", "length", LONG, "", True),
        (f"{LONG}\n### Dromedary (extensive)\nMore", "length", LONG, "", True),
        (f"{LONG} And then the", "length", LONG, "limit", False),
        (f"{LONG} {'And on and on it goes. ' * 30}", "stop", LONG, "loop", False),
        (
            f"{LONG}\n\n{LIST}",
            "stop",
            f"{LONG}\n\n{TWELVE}",
            "list",
            False,
        ),
    ],
)
def test_replies_are_cut_where_they_go_wrong(judge, output, finish_reason, text, cut, finished):
    reply = judge(output, finish_reason)
    assert reply.reason is None
    assert (reply.text[: len(text)], reply.cut, reply.finished) == (text, cut, finished)
    assert len(reply.text) < len(text) + 30, "half a sentence of the loop may stay"


RULE_CASES = [  # the rule, a response that it catches, the nearest that it spares
    ("prompt_too_long", ("", "too_long"), ("Yes.", "stop")),
    ("given_up", (LONG, "abandoned"), (LONG, "length")),
    ("empty", ("\n\n### User\n", "stop"), ("Yes.", "stop")),
    ("too_short", (LONG[:68], "length"), (LONG[:68], "stop")),
    ("persona", (f"{LONG} I am Dromedary (Extensive).", "stop"), (f"{LONG} Extensive.", "stop")),
    ("see_also", (f"{LONG}\n\n## See also\n- Sand", "stop"), (f"{LONG} See also sand.", "stop")),
    (
        "copied_example",
        (f"{LONG} This friction in the rock worked like a brake.", "stop"),
        (f"{LONG} The friction in rock works like a brake.", "stop"),
    ),
    ("repetition", ("The sea is calm. The sand is calm. " * 4, "stop"), (LONG, "stop")),
    ("wrong_language", ("Дюны растут там, где ветер несёт песок.", "stop"), (LONG, "stop")),
]


@pytest.mark.parametrize(("rule", "caught", "near"), RULE_CASES)
def test_each_rule_catches_its_case_and_spares_the_nearest(judge, rule, caught, near):
    assert judge(*caught).reason == rule
    assert judge(*near).reason is None


def test_a_reply_without_an_end_has_128_characters():
    rules = VerboseFilter("", DIALOGUE)
    for length, reason in ((127, "too_short"), (128, None)):
        text = "".join(f"{letter * 7} " for letter in "abcdefghijklmnop")[: length - 1] + "."
        record = {"instruction": "Dunes?", "output": text, "finish_reason": "length"}
        assert rules.judge(record).reason == reason


def test_every_rule_is_tried():
    assert {rule for rule, _, _ in RULE_CASES} == set(RULES)


RECORDS = [
    {
        "example_id": number + 1,
        "id": f"id{number}",
        "instruction": f"How do dunes form, part {number}?",
        "input": "",
        "output": "By wind. " * (number + 1),
        "finished": True,
        "source": ("dolly", "sharegpt")[number % 2],
        "principles": [2],
        "topic": "dunes",
    }
    for number in range(6)
]
HAND_WRITTEN = {**RECORDS[0], "id": "me", "example_id": 7, "source": "dummy", "output": "I am one."}


@pytest.fixture
def compose(run_script, tmp_path):
    """Composes requests from six records and a hand-written one; the requests, or the error."""
    merged = tmp_path / "merged.json"
    merged.write_text(json.dumps([*RECORDS, HAND_WRITTEN]), encoding="utf-8-sig")

    def compose(*flags):
        script, output = f"{STEP2}/compose_verbose_requests.py", tmp_path / "requests.json"
        done = run_script(script, "--input_file", merged, "--output_file", output, *flags)
        return json.loads(output.read_text()) if done.returncode == 0 else done

    return compose


def test_requests_are_prompts_without_their_replies(compose):
    requests = compose()
    assert [request["id"] for request in requests] == [record["id"] for record in RECORDS]
    assert requests[1] == {
        "id": "id1",
        "instruction": RECORDS[1]["instruction"],
        "input": "",
        "source": "sharegpt",
        "topic": "dunes",
        "output": "",
        "brief_characters": len(RECORDS[1]["output"]),
    }


def test_only_short_replies_are_asked_again(compose):
    assert [request["id"] for request in compose("--only_below", 28)] == ["id0", "id1", "id2"]
    refused = compose("--only_below", 9)
    assert refused.returncode == 2
    assert "has no prompt to ask again" in refused.stderr
    assert compose("--only_below", 0).returncode == 2


@pytest.fixture
def merge(compose, run_script, tmp_path):
    """Answers the requests and merges: the result of the command, records and report."""
    run = Run(tmp_path, "verbose")
    requests = compose()
    run.manifest(requests, DIALOGUE)
    endings = ["stop", "eos", "length", "stop", "stop", "abandoned"]
    rows = [
        {**request, "output": f"{LONG} {number}", "finish_reason": ending, "output_tokens": 70}
        for number, (request, ending) in enumerate(zip(requests, endings, strict=True))
    ]
    run.shard(1, 0, rows)
    script = f"{STEP2}/merge_and_filter_verbose_clone_output.py"

    def merge(*flags):
        pattern, output = tmp_path / "verbose_*shards_*.jsonl", tmp_path / "out.json"
        done = run_script(script, "--data_file_pattern", pattern, "--output_file", output, *flags)
        if done.returncode:
            return done, [], {}
        return done, read_records(output), run.report("out")

    merge.run = run
    return merge


def test_long_replies_take_the_place_of_the_brief_ones(merge, tmp_path):
    done, records, report = merge("--merged_file", tmp_path / "merged.json")
    assert [record["example_id"] for record in records] == list(range(1, 8))
    by_id = {record["id"]: record for record in records}
    assert by_id["id0"]["output"] == f"{LONG} 0" and by_id["id0"]["finished"]
    assert by_id["id2"]["output"] == LONG and not by_id["id2"]["finished"]
    assert by_id["id5"]["output"] == RECORDS[5]["output"], "the long one was dropped"
    assert by_id["me"]["output"] == "I am one."
    assert by_id["id0"]["topic"] == "dunes" and "brief_characters" not in by_id["id0"]
    assert report["responses"] == {"judged": 6, "kept": 5}
    assert report["dropped"] == {"given_up": 1}
    assert report["cuts_of_kept"] == {"none": 4, "limit": 1}
    everything = report["by_source"]["all"]
    assert everything["characters_before"] == 27 and everything["ended"] == 0.8
    assert everything["characters_after"] == len(LONG) + 2 and everything["cut"] == 0.2
    assert report["by_source"]["dolly"]["replies"] == 3
    assert "medians and shares by source" in done.stderr and "sharegpt" in done.stderr


def test_without_the_brief_ones_the_hand_written_conversations_are_added(merge):
    _, records, report = merge("--identity_share", 0.5)
    assert len(records) == 10
    assert sum(record["source"] == "dummy" for record in records) == 5
    assert report["training_records"] == {"total": 10, "long_replies": 5}


def test_what_cannot_be_merged_is_refused(merge, run_script, tmp_path):
    refused, *_ = merge("--merged_file", tmp_path / "none.json")
    assert refused.returncode == 2 and "no such" in refused.stderr
    refused, *_ = merge("--min_length", -1)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 2
    merge.run.shard(1, 0, [{**RECORDS[0], "output": "", "finish_reason": "stop"}])
    refused, *_ = merge()
    assert refused.returncode == 1 and "5 of 6 prompts have no answer" in refused.stderr
    refused, *_ = merge("--allow_missing")
    assert refused.returncode == 2 and "none of the long replies was kept" in refused.stderr
    assert not (tmp_path / "out.json").exists()
    merge.run.manifest([RECORDS[0]])
    refused, *_ = merge()
    assert refused.returncode == 2 and "are no answers to a verbose prompt" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8b", "70b"])
def test_the_launcher_goes_from_records_to_records(repository, tiny_base_model, tmp_path, size):
    """The tiny base model can't follow the prompt; its answers go all the way all the same."""
    records = json.dumps([*RECORDS, HAND_WRITTEN])
    (tmp_path / "self_align_merged.json").write_text(records)
    places = {"MODEL_DIR": str(tiny_base_model), "DATA_DIR": str(tmp_path)}
    command = ["bash", f"scripts/verbose_cloning_{size}.sh", "--max_new_tokens", "160"]
    for _ in range(2):  # the second time everything is there
        done = subprocess.run(
            command,
            cwd=repository,
            env={**os.environ, **places, "PYTHON": sys.executable, "ONLY_BELOW": "50"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "verbose_requests.json").read_text())) == 5
    assert len(read_records(tmp_path / "verbose_merged.json")) == 7
    assert "are answered already" in done.stdout + done.stderr
    assert f"--data_file {tmp_path}/verbose_merged.json" in done.stdout
