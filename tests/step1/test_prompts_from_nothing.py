"""Topics and prompts from a base model's own lists: requests, rules, rounds and harvests."""

import json
import random
import re

import pytest
from harvest_rules import PROMPT_RULES, TOPIC_RULES, broken_rule, numbered_items

STEP1 = "step1_prompt_preparation"
TYPES = [
    {
        "type": f"kind {letter}",
        "topics": [f"{letter.upper()}{n} Seed" for n in range(4)],
        "questions": [
            {"topic": f"{letter.upper()}0 Seed", "question": f"What is the use of {letter}?"}
        ],
    }
    for letter in "abcdef"
]


@pytest.fixture
def types_file(tmp_path):
    path = tmp_path / "types.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TYPES))
    return path


def answer(requests_file, shards, write, groups=1, torn=False):
    """What the generator would leave: shards with one response a line, dealt to groups."""
    requests = json.loads(requests_file.read_text())
    for group in range(groups):
        lines = []
        for request in sorted(requests, key=lambda r: r["id"])[group::groups]:
            text, reason = write(request)
            lines.append(json.dumps({**request, "output": text, "finish_reason": reason}) + "\n")
        if torn:
            lines.append('{"id": "half a li')
        shards.with_name(f"{shards.name}_{groups}shards_{group}.jsonl").write_text("".join(lines))
    return f"{shards}_{groups}shards_*.jsonl"


def write_topics(request):
    """Ten topics, of which some break a rule; a function of the request alone."""
    rng = random.Random(request["id"])
    topics = [f"{rng.choice('PQRST')}{rng.randint(0, 60)} Word" for _ in range(8)]
    topics[2] = "something in small letters"
    return " " + "\n".join([topics[0], *(f"{n}. {t}" for n, t in enumerate(topics[1:], 2))]), "stop"


def write_questions(request):
    rng = random.Random(request["id"])
    verbs = ["Explain", "Describe", "Compare", "Summarise", "Criticise", "Defend"]
    lines = []
    for number, pair in enumerate(request["pairs"], start=1):
        words = " ".join(f"x{rng.randint(0, 999)}" for _ in range(6))
        text = f"({pair['type']}; {pair['topic']}) {rng.choice(verbs)} {words}."
        lines.append(text if number == 1 else f"{number}. {text}")
    return " " + "\n".join(lines), "stop"


@pytest.mark.parametrize("rules", [TOPIC_RULES, PROMPT_RULES])
def test_each_rule_catches_its_example_and_lets_the_nearest_through(rules):
    for rule in rules:
        assert broken_rule(rules, rule.caught) == rule.name
        assert broken_rule(rules, rule.passed) is None


def test_a_list_ends_where_its_numbers_do():
    items = list(numbered_items(" One\n2. Two\n\n3.  Three \n5. Five\n6. Six", 1, True))
    assert items == [
        (1, "One", None),
        (2, "Two", None),
        (3, "Three", None),
        (4, "5. Five", "wrong_number"),
    ]


def test_the_last_line_of_a_response_that_was_cut_does_not_count():
    assert [reason for _, _, reason in numbered_items(" One\n2. Two", 1, False)] == [None, "cut"]


def run_rounds(run_script, folder, types_file, groups, torn=False):
    """Two rounds of topics, then questions; returns the bytes of all outputs."""
    pool = []
    for number in (1, 2):
        requests = folder / f"topic_requests_{number}.json"
        result = run_script(
            f"{STEP1}/compose_topic_requests.py",
            *("--round", number, "--types_file", types_file, "--output_file", requests),
            *("--topics_per_type", 120, *pool),
        )
        assert result.returncode == 0, result.stderr
        shards = answer(requests, folder / f"topics_{number}", write_topics, groups, torn)
        topics = folder / f"topics_{number}.jsonl"
        result = run_script(
            f"{STEP1}/harvest_topics.py",
            *("--requests", requests, "--responses", shards, "--types_file", types_file),
            *("--output_file", topics, *pool),
        )
        assert result.returncode == 0, result.stderr
        pool = ["--pool", topics]
    requests = folder / "questions.json"
    result = run_script(
        f"{STEP1}/compose_topic_guided_requests.py",
        *(*pool, "--types_file", types_file, "--output_file", requests),
    )
    assert result.returncode == 0, result.stderr
    shards = answer(requests, folder / "answers", write_questions, groups, torn)
    result = run_script(
        f"{STEP1}/harvest_prompts.py",
        *("--requests", requests, "--responses", shards, "--types_file", types_file),
        *("--output_file", folder / "prompts.json"),
    )
    assert result.returncode == 0, result.stderr
    names = ("topics_1.jsonl", "topics_2.jsonl", "prompts.json", "prompts.report.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def one_group(run_script, tmp_path, types_file):
    folder = tmp_path / "one"
    folder.mkdir()
    return folder, run_rounds(run_script, folder, types_file, groups=1)


def test_rounds_give_topics_and_prompts_whatever_groups_answered(
    run_script, tmp_path, types_file, one_group
):
    """1 group, and 3 groups whose shards end in torn lines, give the same files byte for byte."""
    folder, outputs = one_group
    (tmp_path / "three").mkdir()
    assert run_rounds(run_script, tmp_path / "three", types_file, groups=3, torn=True) == outputs
    topics = [json.loads(line) for line in outputs["topics_2.jsonl"].splitlines()]
    assert {topic["round"] for topic in topics} == {1, 2}
    assert len({(t["type"], t["topic"].lower()) for t in topics}) == len(topics) > 50
    assert not [t for t in topics if t["topic"].islower()]
    prompts = json.loads(outputs["prompts.json"])
    assert len(prompts) > 50
    assert {p["source"] for p in prompts} == {f"tgrt/{row['type']}" for row in TYPES}
    requests = {r["id"]: r for r in json.loads((folder / "questions.json").read_text())}
    for prompt in prompts:
        pair = {"type": prompt["type"], "topic": prompt["topic"]}
        assert pair in requests[prompt["parent_id"]]["pairs"]
    report = json.loads(outputs["prompts.report.json"])
    assert report["kept"] == len(prompts) == report["prompts"]
    assert report["by_kind"]["all"]["proposed"] == report["proposed"]
    assert (folder / "prompts.report.html").read_text().startswith("<!doctype html>")


def test_the_prompts_go_through_cleaning_with_their_types(run_script, tiny_base_model, one_group):
    folder, _ = one_group
    merged = run_script(
        f"{STEP1}/clean_and_merge_prompts.py",
        *("--synthetic_prompt_path", folder / "prompts.json", "--tokenizer_name", tiny_base_model),
        *("--output_file", folder / "merged.json", "--near_duplicate_threshold", 1),
    )
    assert merged.returncode == 0, merged.stderr
    prompts = {p["id"]: p for p in json.loads((folder / "prompts.json").read_text())}
    records = json.loads((folder / "merged.json").read_text())
    assert len(records) > 50
    for record in records:
        for field in ("source", "type", "topic", "parent_id"):
            assert record[field] == prompts[record["id"]][field]


def test_the_prompts_of_a_second_pass_are_only_those_missing(run_script, types_file, one_group):
    folder, _ = one_group
    prompts = json.loads((folder / "prompts.json").read_text())
    (folder / "some.json").write_text(json.dumps(prompts[: len(prompts) // 2]))
    result = run_script(
        f"{STEP1}/compose_topic_guided_requests.py",
        *("--pool", folder / "topics_2.jsonl", "--types_file", types_file),
        *("--harvested", folder / "some.json", "--output_file", folder / "rest.json"),
    )
    assert result.returncode == 0, result.stderr
    asked = [pair for r in json.loads((folder / "rest.json").read_text()) for pair in r["pairs"]]
    done = [{"type": p["type"], "topic": p["topic"]} for p in prompts[: len(prompts) // 2]]
    assert asked
    assert not [pair for pair in asked if pair in done]


def test_drawn_mode_shows_every_request_examples_of_its_own(run_script, types_file, one_group):
    folder, _ = one_group
    result = run_script(
        f"{STEP1}/compose_topic_guided_requests.py",
        *("--pool", folder / "topics_2.jsonl", "--types_file", types_file, "--mode", "drawn"),
        *("--output_file", folder / "drawn.json"),
    )
    assert result.returncode == 0, result.stderr
    requests = json.loads((folder / "drawn.json").read_text())
    assert len({r["instruction"].partition("Wanted:")[0] for r in requests}) > len(requests) / 2
    prompt = (folder / "drawn_prompt.txt").read_text()
    assert "Questions:" not in prompt
    assert prompt.rstrip().endswith("Wanted:")


def test_no_round_follows_once_every_kind_has_its_topics(run_script, types_file, one_group):
    folder, _ = one_group
    output = folder / "none.json"
    command = (f"{STEP1}/compose_topic_requests.py", "--round", 3, "--types_file", types_file)
    pool = ("--pool", folder / "topics_2.jsonl", "--output_file", output)
    enough = run_script(*command, *pool, "--topics_per_type", 4)
    assert enough.returncode == 3
    assert "every kind has its topics" in enough.stdout
    poor = run_script(*command, *pool, "--topics_per_type", 9999, "--least_yield", 1.0)
    assert poor.returncode == 3
    assert "were new; missing: kind a" in poor.stdout
    assert not output.exists()


def test_self_instruct_tasks_go_on_behind_drawn_seeds(run_script, tmp_path):
    requests = tmp_path / "requests.json"
    made = run_script(
        f"{STEP1}/compose_self_instruct_requests.py", "--requests", 8, "--output_file", requests
    )
    assert made.returncode == 0, made.stderr
    texts = [r["instruction"] for r in json.loads(requests.read_text())]
    assert len(set(texts)) == 8
    assert all(re.match(r"1\. .*\n2\. .*\n3\. .*\n4\. .*\n5\. .*\Z", text) for text in texts)

    def write(request):
        rng = random.Random(request["id"])
        seed = request["instruction"].splitlines()[0].removeprefix("1. ")
        words = " ".join(f"y{rng.randint(0, 999)}" for _ in range(7))
        return (
            f" {seed}\n7. Tell me of {words}.\n8. Draw a picture of a horse.\n9. cut of",
            "length",
        )

    shards = answer(requests, tmp_path / "shards", write)
    harvested = run_script(
        f"{STEP1}/harvest_prompts.py",
        *("--requests", requests, "--responses", shards, "--output_file", tmp_path / "out.json"),
    )
    assert harvested.returncode == 0, harvested.stderr
    prompts = json.loads((tmp_path / "out.json").read_text())
    assert (
        len(prompts) == 8
    )  # the seed itself is too similar, the picture no text, the last one cut
    assert {p["source"] for p in prompts} == {"self_instruct"}
    counts = json.loads((tmp_path / "out.report.json").read_text())["by_kind"]["self_instruct"]
    assert (counts["similar"], counts["not_text"], counts["cut"]) == (8, 8, 8)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"type": "a; b"}, "row 1: the type 'a; b' must be a name"),
        ({"weight": 0}, "row 1: the weight 0 of 'kind a' must be a number above 0"),
        ({"topics": ["One"]}, "row 1: 'topics' of 'kind a' must be a list of two or more texts"),
        ({"questions": []}, "row 1: 'questions' of 'kind a' must be a list"),
        ({"type": "kind b"}, "row 2: the type 'kind b' is there twice"),
    ],
)
def test_a_malformed_types_file_is_one_line(run_script, tmp_path, change, line):
    path = tmp_path / "types.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{**TYPES[0], **change}, *TYPES[1:]]))
    result = run_script(
        f"{STEP1}/compose_topic_requests.py",
        *("--round", 1, "--types_file", path, "--output_file", tmp_path / "out.json"),
    )
    assert result.returncode == 2
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_requests_without_a_response_are_said(run_script, tmp_path, types_file):
    requests = tmp_path / "requests.json"
    run_script(
        f"{STEP1}/compose_topic_requests.py",
        *("--round", 1, "--types_file", types_file, "--output_file", requests),
    )
    shards = answer(requests, tmp_path / "part", write_topics, groups=3)
    (tmp_path / "part_3shards_1.jsonl").unlink()
    command = (
        f"{STEP1}/harvest_topics.py",
        *("--requests", requests, "--responses", shards, "--types_file", types_file),
        *("--output_file", tmp_path / "topics.jsonl"),
    )
    refused = run_script(*command)
    assert refused.returncode == 2
    assert "40 of 120 requests have no response yet" in refused.stderr
    assert not (tmp_path / "topics.jsonl").exists()
    assert run_script(*command, "--allow_missing").returncode == 0
