"""Reading training records: three file kinds, the published format, errors that name the row."""

import json
import math

import pytest
from engraving_command import UserError
from training_records import TrainingRecord, read_training_records

ROW = {"example_id": 7, "instruction": "Hi", "input": "", "output": "Hello.", "finished": True}
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1f2e\nsize 1048576\n"


def test_the_three_file_kinds_read_the_same(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [ROW, {**ROW, "example_id": 8, "finished": False, "source": "dummy"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = [
        TrainingRecord(7, "Hi", "", "Hello.", True),
        TrainingRecord(8, "Hi", "", "Hello.", False),
    ]
    for ending in ("json", "jsonl", "parquet"):
        assert read_training_records(tmp_path / f"a.{ending}") == expected


def test_published_format_marks_the_end_in_the_text(tmp_path):
    rows = [
        {"instruction": "Hi", "input": "", "output": "Hello.\n\n### User"},
        {"instruction": "Hi", "output": "Hello, I was cut"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    records = read_training_records(tmp_path / "a.json")
    assert [(record.example_id, record.finished) for record in records] == [(1, True), (2, False)]


def test_file_without_any_sign_of_an_end_counts_as_finished(tmp_path, caplog):
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "Hi", "output": "Hello."}]))
    assert read_training_records(tmp_path / "a.json")[0].finished
    assert "every reply is taken as finished" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[{", "row 1: not valid JSON"),
        ("a.json", json.dumps([ROW, ROW])[:-30], "row 2: not valid JSON"),
        ("a.json", '{"instruction": "x"}', "one JSON array"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", json.dumps(ROW) + "\n{bad", "row 2: not valid JSON"),
        ("a.json", json.dumps([ROW, {"instruction": "x"}]), "row 2: the field 'output'"),
        ("a.json", json.dumps([{**ROW, "finished": "yes"}]), "row 1: 'finished' must be"),
        ("a.json", "[3]", "row 1: a record must be an object"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
        ("a.txt", "x", "must end with one of"),
        ("a.json", LFS_POINTER, "is a Git LFS pointer.* `git lfs pull`"),
        ("a.jsonl", LFS_POINTER, "is a Git LFS pointer"),
        ("a.parquet", LFS_POINTER, "is a Git LFS pointer"),
        ("a.json", json.dumps([{**ROW, "example_id": True}]), "row 1: .*'example_id' a whole"),
        ("a.json", json.dumps([{**ROW, "output": math.nan}]), "row 1: the field 'output'"),
    ],
)
def test_malformed_files_are_named_with_their_row(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_training_records(tmp_path / name)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_files_as_editors_and_tables_leave_them(tmp_path, ending):
    """A byte-order mark, blank lines, a line separator inside a text, and NaN for missing."""
    odd = {**ROW, "example_id": 0, "output": "One\u2028two\x85three.", "input": math.nan}
    rows = [odd, {**ROW, "finished": math.nan, "example_id": 4.0}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = f"[{','.join(lines)}]" if ending == "json" else "\r\n\n".join(lines) + "\n\n"
    path = tmp_path / f"a.{ending}"
    path.write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert read_training_records(path) == [
        TrainingRecord(0, "Hi", "", "One\u2028two\x85three.", True),
        TrainingRecord(4, "Hi", "", "Hello.", False),
    ]


def test_a_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROW).encode("utf-16"))
    with pytest.raises(UserError, match="row 1: not UTF-8"):
        read_training_records(tmp_path / "a.jsonl")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_training_records(tmp_path / "nothing.json")
