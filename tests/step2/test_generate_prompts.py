"""Prompt files: every format, malformed rows by file and row number, ids, repeats, dealing."""

import hashlib
import json
import random

import pandas
import pytest
from prompt_file import deal_prompts, read_principle_prompt, read_prompts
from prompt_format import SELF_ALIGN
from user_error import UserError

RECORDS = [
    {"id": "b", "instruction": "Name a moon.", "input": "", "source": "dolly", "extra": [1, None]},
    {"id": "a", "instruction": "Übersetze.", "input": "a\u2028b", "source": "oasst1", "extra": []},
]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", json.dumps(RECORDS)),
        ("p.json", "\ufeff \n" + json.dumps(RECORDS, indent=2, ensure_ascii=False) + "\n\n"),
        ("p.jsonl", "\n".join(map(json.dumps, RECORDS))),
        ("p.jsonl", "\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS) + "\r\n"),
    ],
)
def test_json_is_read_sorted_by_id_with_its_other_fields(tmp_path, name, content):
    assert read_prompts(write(tmp_path / name, content)) == [RECORDS[1], RECORDS[0]]


def test_parquet_is_read_and_values_without_json_form_become_text(tmp_path):
    rows = [
        {"instruction": f"Question {i}", "day": pandas.Timestamp("2022-05-01")} for i in range(3)
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    prompts = read_prompts(tmp_path / "p.parquet")
    assert sorted(p["instruction"] for p in prompts) == ["Question 0", "Question 1", "Question 2"]
    assert {p["day"] for p in prompts} == {"2022-05-01 00:00:00"}


def test_missing_values_of_tables_are_missing(tmp_path):
    """pandas writes NaN where a row lacks a value, and floats where it has whole numbers."""
    rows = [{"instruction": "a", "input": None, "id": 7}, {"instruction": "b", "input": "c"}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps(pandas.DataFrame(rows).to_dict("records")))
    assert "NaN" in (tmp_path / "p.json").read_text()
    for name in ("p.parquet", "p.json"):
        other, seven = read_prompts(tmp_path / name)
        assert (seven["id"], seven["input"]) == ("7", "")
        assert other["id"] == hashlib.sha256(b"b\0c").hexdigest()[:16]


def test_a_record_without_id_gets_the_hash_of_its_text(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"instruction": "Hi", "input": "you"}')
    expected = hashlib.sha256(b"Hi\0you").hexdigest()[:16]
    assert read_prompts(path) == [{"id": expected, "instruction": "Hi", "input": "you"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", "", "empty"),
        ("p.json", "[ ]", "empty"),
        ("p.jsonl", "\n\n", "empty"),
        ("p.json", '{"instruction": "a"}', "not a JSON array"),
        ("p.json", '[{"instruction": "a"}, {"instr', "row 2: malformed JSON"),
        ("p.json", '[{"instruction": "a"} {"instruction": "b"}]', "row 2: malformed JSON"),
        ("p.json", '[{"instruction": "a"},]', "row 2: malformed JSON"),
        ("p.json", '[{"instruction": "a"}] []', "row 2: malformed JSON"),
        ("p.json", b'["\xff"]', "not UTF-8"),
        ("p.jsonl", '{"instruction": "a"}\n\nrubbish', "row 3: malformed JSON"),
        ("p.jsonl", b'{"instruction": "a"}\n{"instruction": "\xff"}', "row 2: malformed JSON"),
        ("p.jsonl", '{"instruction": "a"}\n["b"]', "row 2: expected an object"),
        ("p.jsonl", '{"prompt": "a", "id": 1}', "row 1: no field 'instruction'.*prompt, id"),
        ("p.jsonl", '{"instruction": 5}', "row 1: the instruction is '5', not a text"),
        ("p.jsonl", '{"instruction": "a", "input": ["b"]}', "row 1: the input is"),
        ("p.jsonl", '{"instruction": " ", "input": ""}', "row 1: the instruction is empty"),
        ("p.jsonl", '{"instruction": "\\ud800"}', "row 1: the instruction has half a character"),
        ("p.jsonl", '{"instruction": "a", "id": 1.5}', "row 1: the id is '1.5'"),
        ("p.jsonl", '{"instruction": "a", "id": "x\\ny"}', "row 1: the id .* can't be printed"),
        ("p.txt", "a", "p.txt ends with '.txt'.*jsonl"),
        ("p.parquet", "rubbish", "not a readable parquet file"),
        ("p.parquet", "version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("p.json", "version https://git-lfs.github.com/spec/v1", "`git lfs pull` fetches it"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        read_prompts(tmp_path / "nowhere.json")


def test_one_id_and_one_text_is_one_prompt_in_any_order(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [{"id": 7, "instruction": "a", "source": s} for s in ("x", "y")]
    rows += [{"id": "7", "instruction": "a", "input": None, "source": "z"}]
    seen = []
    for order in (rows, rows[::-1]):
        path = write(tmp_path / "p.json", json.dumps(order))
        seen.append(read_prompts(path))
    assert len(seen[0]) == 1 and seen[0][0]["id"] == "7" and seen[0] == seen[1]
    assert "2 repeated prompts are answered once" in caplog.text


def test_one_id_with_two_texts_is_an_error(tmp_path):
    rows = [{"id": "7", "instruction": "a"}, {"id": 7, "instruction": "b"}]
    with pytest.raises(UserError, match="row 2: the id '7' also belongs to another prompt, 'a'"):
        read_prompts(write(tmp_path / "p.json", json.dumps(rows)))


def test_groups_share_the_prompts_out(tmp_path):
    rows = [{"instruction": f"Question {i}"} for i in range(50)]
    whole = read_prompts(write(tmp_path / "p.json", json.dumps(rows)))
    random.Random(1).shuffle(rows)
    assert read_prompts(write(tmp_path / "q.json", json.dumps(rows))) == whole
    for size in (1, 3, 7, 60):
        shares = [deal_prompts(whole, size, rank) for rank in range(size)]
        assert sorted(p["id"] for share in shares for p in share) == [p["id"] for p in whole]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_own_part_follows_the_users_turn(repository):
    principle_prompt = read_principle_prompt(
        repository / "prompts" / "watson_self_align_prompt.txt"
    )
    assert (principle_prompt + SELF_ALIGN.own_part("Hi", "")).endswith(
        "\n\nUser: Hi\n\nWatson (internal thoughts):"
    )
    assert (
        SELF_ALIGN.own_part("Fix this.", "teh")
        == " Fix this.\n\nteh\n\nWatson (internal thoughts):"
    )


def test_a_principle_prompt_must_end_with_the_users_turn(tmp_path):
    with pytest.raises(UserError, match=r"ends with 'Be good\.'.*'User:'"):
        read_principle_prompt(write(tmp_path / "p.txt", "Be good.\n"))
    assert read_principle_prompt(write(tmp_path / "p.txt", "Be good.\n\nUser: \n")).endswith(
        "User:"
    )
    with pytest.raises(UserError):
        read_principle_prompt(tmp_path / "nowhere.txt")
