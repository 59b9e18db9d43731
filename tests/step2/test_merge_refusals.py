"""What a user can get wrong: the exit code, the one line that says so, and nothing touched."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from step2.merge_cases import OPENING, PRINCIPLE_PROMPT, Run, prompt, read_records, responses_among
from step2.merge_cases import response as answer
from user_error import run_script

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "step2_principle_driven_self_alignment"
SCRIPT /= "merge_and_filter_self_align_with_dummy.py"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.fixture
def run(tmp_path):
    """A complete run of 4 prompts, an earlier output, and texts as people have them."""
    run = Run(tmp_path)
    run.manifest([prompt(number) for number in range(4)])
    run.shard(2, 0, [answer(0), answer(2)])
    run.shard(2, 1, [answer(1), answer(3)])
    (tmp_path / "merged.json").write_text("earlier")
    (tmp_path / "utf16.txt").write_bytes(f"{OPENING}\tx".encode("utf-16"))
    (tmp_path / "latin1.txt").write_bytes("Grüße\tx".encode("latin-1"))
    (tmp_path / "two_lines.txt").write_text("One.\nTwo.\n")
    (tmp_path / "lfs.json").write_text(LFS)
    (tmp_path / "marked.json").write_text(
        '[{"conversations": [{"from": "human", "value": "Hi"}, '
        '{"from": "gpt", "value": "Hello.\\n\\n### User\\nMore?"}]}]'
    )
    return run


@pytest.fixture
def merge(run, monkeypatch, capsys):
    """Runs the merge as its script does; returns exit code and the lines on stderr."""

    def merge(*flags):
        import merge_and_filter_self_align_with_dummy as script

        arguments = ["--data_file_pattern", run.folder / "run_*shards_*.jsonl"]
        arguments += ["--output_file", run.folder / "merged.json"]
        flags = [str(flag).replace("DIR", str(run.folder)) for flag in flags]
        monkeypatch.setattr(sys, "argv", ["merge", *map(str, arguments), *flags])
        try:
            code = run_script(script.main)
        except SystemExit as error:
            code = error.code
        lines = capsys.readouterr().err.splitlines()
        return code, [line for line in lines if not line.startswith(("judge:", "write:"))]

    return merge


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max_repeated_share", "nan"], "nan is out of range; give 0 to 1"),
        (["--max_repeated_share", "7"], "7 is out of range; give 0 to 1"),
        (["--max_repeated_share", "much"], "invalid float value: 'much'"),
        (["--min_length", "-1"], "-1 is out of range; give 0 or more"),
        (["--min_length", "1e3"], "invalid int value: '1e3'"),
        (["--max_prompt_echo", "-1"], "-1 is out of range; give 0 or more"),
        (["--loop_words", "9"], "9 is out of range; give 10 or more"),
        (["--identity_share", "inf"], "inf is out of range; give 0 to 1"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--assistant_name", ""], "--assistant_name '' is no name; give one line of text"),
        (["--assistant_name", "A\nB"], r"--assistant_name 'A\nB' is no name"),
        (["--developer", " "], "--developer ' ' is no name"),
        (["--no_such_flag"], "unrecognized arguments: --no_such_flag"),
        (["--output_file", "merged.csv"], "--output_file merged.csv must end with .json or .jsonl"),
    ],
)
def test_a_wrong_flag_is_refused_in_two_lines(merge, run, flags, line):
    code, lines = merge(*flags)
    assert code == 2
    assert line in lines[0]
    assert "--help" in lines[1] and len(lines) == 2
    assert (run.folder / "merged.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (["--blacklist_file", "DIR/no.txt"], 2, "--blacklist_file DIR/no.txt: there is no such"),
        (["--blacklist_file", "DIR/utf16.txt"], 2, "utf16.txt is not UTF-8"),
        (["--blacklist_file", "DIR/latin1.txt"], 2, "latin1.txt is not UTF-8"),
        (["--required_opening_file", "DIR/two_lines.txt"], 2, "two_lines.txt has 2 lines"),
        (["--required_opening_file", "DIR/no.txt"], 2, "no.txt: there is no such file"),
        (["--prompt_file", "DIR/no.txt"], 2, "--prompt_file DIR/no.txt: there is no such file"),
        (["--dummy_data_file", "DIR/no.json"], 2, "no such dummy data file: DIR/no.json"),
        (["--dummy_data_file", "DIR/lfs.json"], 2, "`git lfs pull` fetches it"),
        (["--dummy_data_file", "DIR/marked.json"], 2, "row 1: turn 2 has a line '### User'"),
        (["--output_file", "DIR/run.manifest.json"], 2, "is the run's manifest; give another name"),
        (["--output_file", "DIR/prompts.json"], 2, "holds the run's prompts; give another name"),
        (["--output_file", "DIR/none/merged.json"], 2, "there is no folder DIR/none; make it"),
        (["--data_file_pattern", "DIR/typo_*"], 2, "matches no file named"),
        (["--data_file_pattern", "DIR/run_2shards_0.jsonl"], 1, "2 of 4 prompts have no answer"),
        (["--min_length", "9999"], 2, "none of the responses was kept"),
        (["--explain", "nobody"], 2, "none of the 2 shards has a response with the id nobody"),
    ],
)
def test_an_input_that_cannot_work_is_refused_in_one_line(merge, run, flags, code, line):
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    found, lines = merge(*flags)
    errors = [text for text in lines if text.startswith("error: ")]
    assert (found, len(errors)) == (code, 1)
    assert line.replace("DIR", str(run.folder)) in errors[0]
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_texts_and_shards_as_other_editors_save_them(merge, run):
    """A byte-order mark became part of the text; a blank line in a shard was no response record."""
    for name, source in {
        "required_opening": REPOSITORY / "prompts" / "required_opening.txt",
        "blacklist": REPOSITORY / "prompts" / "exemplar_blacklist.txt",
        "prompt": PRINCIPLE_PROMPT,
    }.items():
        text = source.read_text().replace("\n", "\r\n")
        (run.folder / f"{name}.txt").write_text(text, encoding="utf-8-sig", newline="")
    shard = run.folder / "run_2shards_0.jsonl"
    first, second = shard.read_text().splitlines()
    shard.write_text(f"\ufeff{first}\n\n  \n{second}\n\n")
    flags = ("--required_opening_file", "DIR/required_opening.txt")
    flags += ("--blacklist_file", "DIR/blacklist.txt", "--prompt_file", "DIR/prompt.txt")
    code, lines = merge(*flags)
    assert code == 0, lines
    assert not any("not the principle prompt" in line for line in lines)
    records = responses_among(read_records(run.folder / "merged.json"))
    assert len(records) == 4
    assert {tuple(record["principles"]) for record in records} == {(2, 8)}


@pytest.mark.parametrize("content", ["{}", "", '{"prompts": '])
def test_a_manifest_that_is_none_is_named(merge, run, content):
    (run.folder / "run.manifest.json").write_text(content)
    code, lines = merge()
    assert code == 2
    assert "run.manifest.json is not a run's manifest" in lines[-1]


def test_a_full_disk_is_one_line_and_leaves_the_earlier_output(run):
    """A limit on the size of files stands in for the disk."""
    command = [sys.executable, str(SCRIPT), "--output_file", str(run.folder / "merged.json")]
    command += ["--data_file_pattern", str(run.folder / "run_*.jsonl")]
    names = sorted(run.folder.iterdir())
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr and "[Errno" not in done.stderr
    assert "ulimit" in done.stderr
    assert (run.folder / "merged.json").read_text() == "earlier"
    assert sorted(run.folder.iterdir()) == names
