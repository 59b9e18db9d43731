"""Every malformed input ends with one clear line and leaves the files of earlier runs alone."""

import csv
import gzip
import io
import json
import math
import os
import resource
import subprocess
import sys

import aggregate_sharegpt_prompts
import clean_and_merge_prompts
import json_arrays
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import subsample_openorca_prompts
from command_line import InputError
from row_files import read_file

OPENORCA = (subsample_openorca_prompts, "--train_data_path", "--output_path")
SHAREGPT = (aggregate_sharegpt_prompts, "--data_files", "--output_path")
MERGE = (clean_and_merge_prompts, "--sharegpt_prompt_path", "--output_file")
DOLLY = (clean_and_merge_prompts, "--dolly_data", "--output_file")
OASST = (clean_and_merge_prompts, "--oasst_data", "--output_file")
STAGES = {"openorca": OPENORCA, "sharegpt": SHAREGPT, "merge": MERGE, "dolly": DOLLY}
GOOD_ROW = b'{"instruction": "What is a cat?", "conversations": []}'


@pytest.fixture
def fails(run_stage, tokenizer, tmp_path):
    """Runs a stage that must fail; returns its message; checks that an old output is untouched."""

    def run(stage, *inputs, more=(), code=2):
        script, input_flag, output_flag = stage
        folder = tmp_path / "outputs"
        folder.mkdir(exist_ok=True)
        old = {folder / name: b"of an earlier run" for name in ("o.json", "o.report.json")}
        for path, content in old.items():
            path.write_bytes(content)
        if script is not aggregate_sharegpt_prompts:
            more = ("--tokenizer_name", tokenizer, *more)
        names = ",".join(map(str, inputs))
        ended = run_stage(script, input_flag, names, output_flag, folder / "o.json", *more)
        assert ended.code == code, ended
        assert {path: path.read_bytes() for path in folder.iterdir()} == old
        assert ended.err.startswith("error: ") and ended.err.count("\n") <= 2
        return ended.err

    return run


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_usage_errors(fails, stage, tmp_path):
    missing = tmp_path / "missing.parquet"
    assert "unrecognized arguments: --unknown 1" in fails(stage, missing, more=("--unknown", "1"))
    assert "unrecognized arguments: --see" in fails(stage, missing, more=("--see", "1"))
    if stage is not SHAREGPT:
        assert "invalid int value: 'x'" in fails(stage, missing, more=("--seed", "x"))
    assert "an empty list" in fails(stage, " , ")


def test_more_usage_errors(fails, tmp_path):
    assert "0 is too small" in fails(OPENORCA, "a", more=("--max_prompt_len", "0"))
    assert "--min_prompt_len 9 is above --max_prompt_len 8" in fails(
        MERGE, "a", more=("--min_prompt_len", "9", "--max_prompt_len", "8")
    )
    for value in ("1.5", "0", "nan", "inf", "much"):
        assert f"{value} is not a number above 0 and at most 1" in fails(
            MERGE, "a", more=("--near_duplicate_threshold", value)
        )
    assert "give --oasst_data too" in fails(MERGE, "a", more=("--languages", "en"))
    assert "is an input too" in fails(MERGE, tmp_path / "outputs" / "o.json")
    assert "lies in the input folder" in fails(MERGE, tmp_path / "outputs")
    report = tmp_path / "outputs" / "o.report.json"
    assert "--rejects_file" in fails(MERGE, "a", more=("--rejects_file", report))


def test_nothing_to_merge(run_stage, tmp_path):
    ended = run_stage(clean_and_merge_prompts, "--output_file", tmp_path / "o.json")
    assert ended.code == 2
    assert "nothing to merge; give one of --sharegpt_prompt_path" in ended.err


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_missing_and_foreign_files(fails, stage, tmp_path):
    flag = stage[1]
    missing = tmp_path / "missing.parquet"
    assert f"{flag}: no such file or folder: {missing}" in fails(stage, missing)
    foreign = tmp_path / "prompts.txt"
    foreign.write_text("hello")
    assert f"{flag}: {foreign} does not end in " in fails(stage, foreign)
    (tmp_path / "empty").mkdir()
    assert "file in the folder" in fails(stage, tmp_path / "empty")


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_broken_parquet(fails, stage, content, tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)
    assert f"{path}: not a readable parquet file" in fails(stage, path)


INSTEAD_OF_DATA = {
    "a.json": (b"version https://git-lfs.github.com/spec/v1\noid sha256:5c\n", "a Git LFS pointer"),
    "b.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:5c\n", "`git lfs pull`"),
    "c.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:5c\n", "Git LFS"),
    "d.json": ('[{"instruction": "x"}]'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "e.jsonl": ('{"instruction": "x"}\n'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "f.jsonl.gz": (gzip.compress(GOOD_ROW * 1000)[:-20], "the compressed file is cut off"),
    "g.json.gz": (b"no gzip", "not a gzip file"),
    "h.jsonl.zst": (b"no zst", "damaged or cut off .zst file"),
    "i.jsonl": (GOOD_ROW + b"\n" + GOOD_ROW[:20], "row 2 is not valid JSON"),
}


@pytest.mark.parametrize("name", INSTEAD_OF_DATA)
def test_what_people_have_instead_of_a_file(fails, name, tmp_path):
    content, message = INSTEAD_OF_DATA[name]
    path = tmp_path / name
    path.write_bytes(content)
    error = fails(MERGE, path)
    assert str(path) in error and message in error


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_pointer_instead_of_a_tokenizer(fails, name, tmp_path, write_json):
    (tmp_path / name).write_bytes(INSTEAD_OF_DATA["a.json"][0])
    rows = write_json([{"instruction": "x"}])
    error = fails(MERGE, rows, more=("--tokenizer_name", tmp_path / name))
    assert f"{tmp_path / name}: a Git LFS pointer" in error


def test_damaged_parquet(fails, write_openorca):
    """The footer is whole, the data pages are not."""
    path = write_openorca([(f"niv.{n}", f"What is {n}? " * 20) for n in range(500)])
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = b"\x99" * (len(content) // 2 - 100)
    path.write_bytes(content)
    assert str(path) in fails(OPENORCA, path)


@pytest.mark.parametrize("stage", [SHAREGPT, MERGE, DOLLY, OASST])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "is empty"),
        ("a.json", b"{}", "starts with '{'"),
        ("a.json", b"[%s, {" % GOOD_ROW, "row 2 is not valid JSON"),
        ("a.json", b"[%s" % GOOD_ROW, "row 1 is not valid JSON: the array is cut off"),
        ("a.json", b'[{"a": 1} {"b": 2}]', "row 1 is not valid JSON: no comma"),
        ("a.json", b"[] []", "more text after the array"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'["\xff"]', "not UTF-8 text near row 1"),
        ("a.json", b"[]", "it is empty"),
        ("a.jsonl", b"", "it is empty"),
        ("a.jsonl", b'\n{"half": ', "row 2 is not valid JSON"),
        ("a.jsonl", b'{"a": "\xff"}', "row 1 is not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "row 1 is not valid JSON"),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_malformed_json(fails, stage, name, content, message, tmp_path):
    if stage is not SHAREGPT and GOOD_ROW in content:
        content = content.replace(
            GOOD_ROW,
            b'{"instruction": "What?", "context": "", "category": "open_qa", '
            b'"message_id": "a", "parent_id": "b", "text": "c", "role": "d"}',
        )
    path = tmp_path / name
    path.write_bytes(content)
    if name == "a.json" and content == b'[{"a": 1} {"b": 2}]' and stage is not SHAREGPT:
        message = "row 1"  # the missing field is found first
    error = fails(stage, path)
    assert str(path) in error and message in error


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["niv.1"]}, "no column 'question'; it has id"),
        ({"question": ["What?"]}, "no column 'id'; it has question"),
        ({"id": ["niv.1"], "question": [3]}, "the column 'question' holds int64, not text"),
        ({"id": [1], "question": ["What?"]}, "the column 'id' holds int64, not text"),
        ({"id": ["niv.1", "xyz.2"], "question": ["A?"] * 2}, "row 2 has the id 'xyz.2'"),
        ({"id": ["niv.1", None], "question": ["A?"] * 2}, "row 2 has the id None"),
        ({"id": pa.array([], pa.string()), "question": pa.array([], pa.string())}, "no prompt is"),
        ({"id": ["niv.1"], "question": pa.array([None], pa.string())}, "no prompt is left"),
    ],
)
def test_openorca_columns(fails, columns, message, tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path)
    assert message in fails(OPENORCA, path)


def test_a_bad_row_in_a_later_file_is_named_there(fails, write_openorca):
    good = write_openorca([(f"niv.{n}", "What?") for n in range(30)], "a.parquet")
    bad = write_openorca([*[(f"cot.{n}", "What?") for n in range(60)], ("?", "What?")], "b.parquet")
    assert f"{bad}: row 61 has the id '?'" in fails(OPENORCA, good, bad)


def test_text_that_is_not_utf8_is_a_counted_drop(run_stage, tokenizer, tmp_path):
    """Parquet files may hold such bytes; arrow does not look."""
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(b"\0\0\0\0\5\0\0\0\x0c\0\0\0"), pa.py_buffer(b"ab\xff\xfecGood one")],
    )
    path, output = tmp_path / "bytes.parquet", tmp_path / "o.json"
    pq.write_table(pa.table({"id": ["niv.1", "niv.2"], "question": broken}), path)
    ended = run_stage(
        subsample_openorca_prompts,
        *("--train_data_path", path, "--output_path", output, "--tokenizer_name", tokenizer),
        *("--rejects_file", tmp_path / "rejects.jsonl"),
    )
    assert ended.code == 0 and "invalid_unicode" in ended.out
    assert [row["instruction"] for row in json.loads(output.read_bytes())] == ["Good on"]
    pq.write_table(pa.table({"instruction": broken}), path)
    ended = run_stage(
        clean_and_merge_prompts,
        *("--sharegpt_prompt_path", path, "--output_file", output, "--tokenizer_name", tokenizer),
    )
    assert ended.code == 0 and "invalid_unicode" in ended.out


def test_rows_without_the_fields(fails, write_json):
    rows = write_json([{"text": "no instruction"}])
    assert "row 1 is no prompt record: it has no field 'instruction'" in fails(MERGE, rows)
    assert "row 1 has no field 'instruction', 'context', 'category'" in fails(DOLLY, rows)
    assert "row 1 has no field 'message_id', 'parent_id', 'role'" in fails(OASST, rows)
    assert "none of its 1 rows has a field 'conversations' or 'items'" in fails(SHAREGPT, rows)
    assert "row 1" in fails(MERGE, write_json([["a", "list"]]))


@pytest.mark.parametrize("stage", [SHAREGPT, MERGE])
def test_nothing_left_is_an_error(fails, stage, write_json):
    error = fails(stage, write_json([{"instruction": None, "conversations": []}]))
    assert "no prompt is left (see the table above)" in error


def test_output_that_cannot_be_written(run_stage, write_json, conversation, tmp_path):
    data = write_json([conversation("What is a cat?", "An animal")])
    for output, code, message in (
        (tmp_path, 2, "is a folder; name a file to write"),
        (data / "below_a_file.json", 1, "a file stands where a folder is needed; name another"),
    ):
        ended = run_stage(aggregate_sharegpt_prompts, "--data_files", data, "--output_path", output)
        assert ended.code == code and message in ended.err, ended
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_a_full_disk_leaves_the_old_output(repository, write_json, conversation, tmp_path):
    """The limit on file sizes stops the writing midway, as a full disk does."""
    rows = [conversation(f"What is {n}? {'long ' * 50}", "It is", name=None) for n in range(200)]
    data, output = write_json(rows), tmp_path / "o.json"
    output.write_text("of an earlier run")
    ended = subprocess.run(
        [
            sys.executable,
            repository / "step1_prompt_preparation" / "aggregate_sharegpt_prompts.py",
            *(f"--data_files={data}", "--output_path", output),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and "write to another disk" in ended.stderr
    assert output.read_text() == "of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.json", "rows.json"]


def test_an_interrupted_run_leaves_the_old_output(fails, write_json, conversation, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(aggregate_sharegpt_prompts, "opening_prompt", interrupted)
    error = fails(SHAREGPT, write_json([conversation("Hi", "Hello")]), code=130)
    assert error == "error: stopped; outputs of earlier runs are untouched\n"


TEXTS = ["a\u2028b\u0085c\x0cd", "two\nlines"]


def test_rows_are_the_same_in_every_format(tmp_path):
    """Marks, blank lines, line separators inside strings, NaN, compression: put right by one."""
    rows = [{"instruction": text, "n": math.nan} for text in TEXTS]
    lines = b"\n \n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
    array = b"[" + b",\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows) + b"]"
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["instruction", "n"], *([text, ""] for text in TEXTS)])
    contents = {"a.jsonl": lines, "a.json": array, "a.csv": table.getvalue().encode()}
    contents = {name: b"\xef\xbb\xbf" + content for name, content in contents.items()}
    for name, content in list(contents.items()):
        contents[f"{name}.gz"] = gzip.compress(content[:9]) + gzip.compress(content[9:])
        contents[f"{name}.zst"] = pa.compress(content, codec="zstd", asbytes=True)
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        read = [row for _, row in read_file(path)]
        assert [row["instruction"] for row in read] == TEXTS, name
        assert all(row["n"] in (None, "") for row in read), name
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = [row for _, row in read_file(tmp_path / "a.parquet")]
    assert read == [{"instruction": text, "n": None} for text in TEXTS]


def test_flags_are_refused_before_heavy_libraries_load(repository):
    """--help and a wrong flag answer at once: no library of the work is loaded for them."""
    heavy = ("numpy", "pyarrow", "pandas", "datasets", "rensa", "huggingface_hub")
    for script in (subsample_openorca_prompts, aggregate_sharegpt_prompts, clean_and_merge_prompts):
        for flag in ("--help", "--wrong"):
            ended = subprocess.run(
                [sys.executable, "-X", "importtime", script.__file__, flag],
                capture_output=True,
                text=True,
            )
            assert ended.returncode == (0 if flag == "--help" else 2)
            loaded = {line.split("|")[-1].strip() for line in ended.stderr.splitlines()}
            assert not loaded & set(heavy)
            assert ("--help explains the flags" in ended.stderr) == (flag == "--wrong")


ARRAY = [
    {"a": 'é\n"\\ 🚀 \ud83d', "b": [1, 2.5e10, -3, True, None]},
    12345,
    -1.25e-10,
    "text with ] and , in it",
    [],
    {"nested": {"deep": [[["x"]]]}},
    -0.5,
    "",
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50, 10_000])
def test_arrays_are_read_alike_in_chunks_of_any_size(write_json, monkeypatch, chunk):
    monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", chunk)
    path = write_json(ARRAY)
    assert list(read_file(path)) == list(enumerate(ARRAY, 1))
    path.write_text(f"\ufeff \n{json.dumps(ARRAY, indent=3)}\n ", encoding="utf-8")
    assert list(read_file(path)) == list(enumerate(ARRAY, 1))


def test_an_array_cut_anywhere_is_an_error(write_json, monkeypatch):
    monkeypatch.setattr(json_arrays, "CHUNK_CHARACTERS", 16)
    path = write_json(ARRAY)
    content = path.read_bytes()
    for size in range(len(content)):
        os.truncate(path, size)
        with pytest.raises(InputError, match=r"row \d|is empty"):
            list(read_file(path))
        path.write_bytes(content)
