"""Reading training records: three file kinds, the published format, errors that name the row."""

import json

import pytest
from training_records import TrainingRecord, read_training_records

ROW = {"example_id": 7, "instruction": "Hi", "input": "", "output": "Hello.", "finished": True}


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
        ("a.json", "[{", "not valid JSON"),
        ("a.json", '{"instruction": "x"}', "one JSON array"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", json.dumps(ROW) + "\n{bad", "row 2: not valid JSON"),
        ("a.json", json.dumps([ROW, {"instruction": "x"}]), "row 2: the field 'output'"),
        ("a.json", json.dumps([{**ROW, "finished": "yes"}]), "row 1: 'finished' must be"),
        ("a.json", "[3]", "row 1: a record must be an object"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
        ("a.txt", "x", "must end with one of"),
    ],
)
def test_malformed_files_are_named_with_their_row(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_training_records(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="local files"):
        read_training_records(tmp_path / "nothing.json")
