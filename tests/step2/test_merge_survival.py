"""A merge that is killed at any point leaves nothing that lies, and the next one cleans up."""

import json
import os
import signal
import sys

import pytest
from step2.merge_cases import Run, prompt
from step2.merge_cases import response as answer
from user_error import UserError

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
FLAGS = ("--parquet", "--min_length", 0)


@pytest.fixture
def run(tmp_path):
    """A run whose merge of 8 responses lies there, and whose 4 more responses came in later."""
    run = Run(tmp_path)
    run.manifest([prompt(number) for number in range(8)])
    run.shard(1, 0, [answer(number) for number in range(8)])
    with pytest.MonkeyPatch.context() as patch:
        run.merge(patch, *FLAGS)
    run.manifest([prompt(number) for number in range(12)])
    run.shard(1, 0, [answer(number) for number in range(12)])
    return run


def merge_killed_at(run, change):
    """Merges in a child process, killed before its `change`-th change of a file; whether it was."""
    child = os.fork()
    if child == 0:
        left = change

        def count(event, arguments):
            nonlocal left
            path = arguments[0] if arguments else ""
            if event not in CHANGES or not str(path).startswith(str(run.folder)):
                return
            if event == "open" and not isinstance(arguments[1], str):
                return
            if event != "open" or set(arguments[1]) & set("wax+"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                run.merge(patch, *FLAGS)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def contents(run):
    """The number of responses in each output; a missing one fails."""
    import pyarrow.parquet

    folder = run.folder
    records = json.loads((folder / "merged.json").read_text())
    rows = pyarrow.parquet.read_table(folder / "merged_dataset/data/train-00000-of-00001.parquet")
    assert (folder / "merged_dataset" / "README.md").stat().st_size
    assert (folder / "merged.report.html").stat().st_size
    return {
        "training": sum(record["source"] != "dummy" for record in records),
        "dataset": sum(source != "dummy" for source in rows["source"].to_pylist()),
        "report": run.report()["responses"]["kept"],
        "card": 12 if "Of 12 responses" in (folder / "merged.README.md").read_text() else 8,
    }


def test_a_kill_at_any_change_leaves_no_old_report_beside_a_new_file(run, monkeypatch):
    """The folder of --parquet was missing, and hidden folders stayed for ever."""
    names = sorted(path.name for path in run.folder.iterdir())
    seen, change = set(), 1
    while merge_killed_at(run, change):
        found = contents(run)
        assert set(found.values()) <= {8, 12}
        if found["training"] == 12:
            assert set(found.values()) == {12}, (change, found)
        seen.add(tuple(found.values()))
        change += 1
        if found["training"] == 12:  # start again from the earlier merge
            run.shard(1, 0, [answer(number) for number in range(8)])
            run.merge(monkeypatch, *FLAGS, "--allow_missing")
            run.shard(1, 0, [answer(number) for number in range(12)])
    assert change > 12, "too few points were tried"
    assert {(8, 8, 8, 8), (12, 12, 12, 12)} < seen, "no merge was killed between two renames"
    assert set(contents(run).values()) == {12}
    assert sorted(path.name for path in run.folder.iterdir()) == names


def test_what_a_killed_merge_left_is_removed_by_the_next(run, monkeypatch):
    assert merge_killed_at(run, 6)
    assert [path for path in run.folder.iterdir() if path.name.startswith(".")]
    run.merge(monkeypatch, *FLAGS)
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]


def test_two_merges_at_once_do_not_mix(run, monkeypatch):
    from training_file import MergedFiles

    before = (run.folder / "merged.json").read_bytes()
    with (
        MergedFiles(run.folder / "merged.json", parquet=False),
        pytest.raises(UserError, match=r"another merge is writing .*merged\.json; wait"),
    ):
        run.merge(monkeypatch)
    assert (run.folder / "merged.json").read_bytes() == before
    run.merge(monkeypatch)
    assert (run.folder / "merged.json").read_bytes() != before


def test_records_of_another_data_set_are_not_mixed_in(run, monkeypatch):
    stray = run.folder / "merged_dataset" / "data" / "train-00001-of-00002.parquet"
    stray.write_bytes(b"")
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet would be loaded"):
        run.merge(monkeypatch, *FLAGS)
    assert stray.exists()
