"""The merge takes a run complete or refuses it, and says by name and number what is wrong."""

import json
import re

import pytest
from step2.merge_cases import REPLY, Run, prompt, responses_among
from step2.merge_cases import response as answer
from user_error import UserError

PROMPTS = [prompt(number) for number in range(12)]


@pytest.fixture
def run(tmp_path):
    """A complete run of 12 prompts by 3 groups, with earlier outputs of a merge beside it."""
    run = Run(tmp_path)
    run.manifest(PROMPTS)
    for rank in range(3):
        run.shard(3, rank, [answer(number) for number in range(rank, 12, 3)])
    (tmp_path / "merged.json").write_text("earlier")
    (tmp_path / "merged.report.json").write_text("earlier")
    return run


@pytest.fixture
def refused(monkeypatch):
    """The merge's refusal of a run; earlier outputs stay and nothing new appears."""

    def merge(run, *flags, **arguments):
        before = {path: path.read_bytes() for path in run.folder.iterdir()}
        with pytest.raises((UserError, ValueError, OSError)) as error:
            run.merge(monkeypatch, *flags, **arguments)
        assert {path: path.read_bytes() for path in run.folder.iterdir()} == before
        assert "\n" not in str(error.value)
        return str(error.value)

    return merge


def ids(*numbers):
    return sorted(PROMPTS[number]["id"] for number in numbers)


def test_a_complete_run_is_merged(run, monkeypatch):
    records = run.merge(monkeypatch)
    assert len(responses_among(records)) == 12
    assert run.report()["run"]["gaps"] == ""
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]


def test_prompts_without_an_answer_are_named(run, refused):
    run.shard(3, 1, [answer(1), answer(4)])
    message = refused(run)
    assert "2 of 12 prompts have no answer" in message
    assert f"(ids {', '.join(ids(7, 10))})" in message
    assert "start the generation again" in message


def test_only_the_first_missing_ids_are_shown(run, refused):
    run.shard(3, 1, [])
    shown = ", ".join(ids(1, 4, 7, 10)[:3])
    assert f"4 of 12 prompts have no answer (ids {shown} and 1 more)" in refused(run)


def test_a_missing_rank_is_named(run, refused):
    run.shard(3, 2, []).unlink()
    assert "no shard of rank 2 of 3" in refused(run)
    run.shard(3, 1, []).unlink()
    assert "no shard of ranks 1, 2 of 3" in refused(run)


def test_missing_prompts_are_counted_when_the_prompt_file_is_gone(run, refused):
    (run.folder / "prompts.json").unlink()
    run.shard(3, 0, [])
    assert "4 of 12 prompts have no answer;" in refused(run)


def test_allow_missing_goes_on_and_reports(run, monkeypatch, caplog):
    run.shard(3, 2, []).unlink()
    run.shard(3, 1, [answer(1)], end=b'{"id": "torn')
    records = run.merge(monkeypatch, "--allow_missing")
    assert len(responses_among(records)) == 5
    report = run.report()["run"]
    assert "7 of 12 prompts have no answer" in report["gaps"]
    assert report["torn_shards"] == ["run_3shards_1.jsonl"]
    assert "7 of 12" in caplog.text
    assert "7 of 12 prompts have no answer" in (run.folder / "merged.report.html").read_text()


def test_answers_outside_the_pattern_are_pointed_at(run, refused, monkeypatch):
    """After a resume with another group count, a pattern for one count misses the rest."""
    run.shard(3, 1, [answer(1), answer(4)])
    run.shard(2, 0, [answer(7)])
    run.shard(2, 1, [answer(10)])
    message = refused(run, pattern="run_3shards_*.jsonl")
    assert "2 of 12 prompts have no answer" in message
    assert "2 of them are in run_2shards_0.jsonl, run_2shards_1.jsonl" in message
    assert "start the generation" not in message
    remedy = re.search(r'--data_file_pattern "[^"]*/([^"/]+)"', message)[1]
    assert len(responses_among(run.merge(monkeypatch, pattern=remedy))) == 12


def test_every_group_count_may_have_written_a_part(run, monkeypatch):
    run.shard(3, 2, []).unlink()
    run.shard(5, 3, [answer(number) for number in (2, 5, 8, 11)])
    assert len(responses_among(run.merge(monkeypatch))) == 12
    assert run.report()["run"]["group_sizes"] == [3, 5]


def test_an_equal_second_answer_is_taken_once_and_counted(run, monkeypatch):
    run.shard(2, 0, [answer(0), answer(5)])
    assert len(responses_among(run.merge(monkeypatch))) == 12
    assert run.report()["run"]["repeated_answers"] == 2


def test_of_two_different_answers_the_first_in_the_shards_order_counts(run, monkeypatch):
    run.shard(5, 0, [answer(3), answer(5, reply="Another tale. " + REPLY)])
    run.shard(3, 2, [answer(8, reply="A later tale. " + REPLY)], launch=1)
    records = responses_among(run.merge(monkeypatch))
    assert len(records) == 12
    assert not [record for record in records if "Another" in record["output"]]
    assert not [record for record in records if "later" in record["output"]]
    assert run.report()["run"]["repeated_answers"] == 3
    assert run.report()["run"]["differing_answers"] == 2


def test_a_torn_line_whose_prompt_was_answered_again_is_nothing_to_report(run, monkeypatch):
    """A shard of 2 groups that was cut in its last line blocked the merge for ever."""
    run.shard(2, 1, [answer(1), answer(3)], end=b'{"id": "0", "instruc')
    assert len(responses_among(run.merge(monkeypatch))) == 12
    assert run.report()["run"]["torn_shards"] == ["run_2shards_1.jsonl"]
    assert run.report()["run"]["gaps"] == ""


def test_a_torn_line_whose_prompt_has_no_answer_is_a_gap(run, refused):
    run.shard(3, 1, [answer(1), answer(4), answer(7)], end=b'{"id": "0", "instruc')
    assert "1 of 12 prompts have no answer" in refused(run)


def test_without_a_manifest_a_torn_line_is_a_gap(run, refused, monkeypatch):
    """Nothing tells then whether its prompt was answered again."""
    (run.folder / "run.manifest.json").unlink()
    run.shard(3, 1, [answer(1), answer(4)], end=b'{"id": "0", "instruc')
    assert "run_3shards_1.jsonl: its last line is torn" in refused(run)
    assert len(responses_among(run.merge(monkeypatch, "--allow_missing"))) == 10


def test_blank_lines_are_left_out(run, monkeypatch):
    run.shard(3, 1, [answer(1), answer(4)], end=b"\n  \n")
    run.shard(3, 1, [answer(7), answer(10)], end=b"\n", launch=1)
    assert len(responses_among(run.merge(monkeypatch))) == 12


@pytest.mark.parametrize("flags", [[], ["--allow_missing"]])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"instruc\n', "Invalid control character"),
        (b"\xff\n", "decode"),
        (b"[1, 2]\n", "not an object"),
        (b'{"id": "0", "output": "x"}\n', "`instruction` is not a text"),
        (b'{"instruction": "Hi"}\n', "`output` is not a text"),
        (b'{"instruction": "Hi", "output": {"text": "x"}}\n', "`output` is not a text"),
        (b'{"instruction": "Hi", "output": "x", "input": 3}\n', "`input` is not a text"),
        (b'{"instruction": "Hi", "output": "x", "finish_reason": 3}\n', "`finish_reason` is not"),
    ],
)
def test_rows_that_are_no_responses_are_named(run, refused, row, reason, flags):
    run.shard(3, 1, [answer(1), answer(4)], end=row)
    message = refused(run, *flags)
    assert "run_3shards_1.jsonl, row 3: not a response record" in message
    assert reason in message


@pytest.mark.parametrize("flags", [[], ["--allow_missing"]])
def test_answers_to_prompts_of_another_run_are_refused(run, refused, flags):
    run.shard(3, 1, [answer(1), answer(4), answer(77)])
    message = refused(run, *flags)
    assert "answer prompts that are not of the run" in message
    assert prompt(77)["id"] in message


def test_as_many_foreign_answers_as_missing_ones_are_no_complete_run(run, refused):
    """The numbers fit then; only the ids tell, also when the prompt file is gone."""
    run.shard(3, 1, [answer(1), answer(4), answer(7), answer(77)])
    assert prompt(77)["id"] in refused(run)
    (run.folder / "prompts.json").unlink()
    assert "answer prompts that are not of the run" in refused(run)


def test_the_missing_ids_of_a_limited_run_are_named(tmp_path, refused):
    """`--limit` takes the prompts with the smallest ids; the others are not missed."""
    run = Run(tmp_path)
    run.manifest(PROMPTS, limit=7)
    first = sorted(PROMPTS, key=lambda record: record["id"])[:7]
    numbers = [PROMPTS.index(record) for record in first]
    run.shard(1, 0, [answer(number) for number in numbers[:-2]])
    shown = ", ".join(ids(*numbers[-2:]))
    assert f"2 of 7 prompts have no answer (ids {shown})" in refused(run)


def test_shards_of_two_runs_are_refused(run, refused):
    Run(run.folder, "run_b").shard(3, 0, [answer(1)])
    assert "shards of 2 runs" in refused(run, pattern="run*.jsonl")


def test_no_file_is_an_error(run, refused):
    assert "matches no file named" in refused(run, pattern="typo_*.jsonl")
    assert "matches 1 files, none of them named" in refused(run, pattern="prompts.json*")


def test_empty_shards_are_an_error(tmp_path, refused):
    run = Run(tmp_path)
    run.shard(1, 0, [])
    assert "hold no response" in refused(run)
    assert "hold no response" in refused(run, "--allow_missing")


def test_a_rank_beyond_its_group_size_is_refused(run, refused):
    (run.folder / "run_3shards_3.jsonl").write_text("")
    assert "run_3shards_3.jsonl: this rank is not below its group size" in refused(run)


def test_a_broken_manifest_is_refused(run, refused):
    (run.folder / "run.manifest.json").write_text('{"prompts": 12}')
    assert "run.manifest.json is not a run's manifest" in refused(run)


@pytest.fixture
def older_run(tmp_path):
    """Shards of another tool: no manifest, no ids, outputs as objects, other fields besides."""
    run = Run(tmp_path)
    for rank in range(2):
        rows = [answer(number, source=None, tool="x") for number in range(rank, 6, 2)]
        for row in rows:
            row["output"] = {"generation": row["output"] + "\n\nUser: Thanks"}
            del row["id"], row["finish_reason"], row["prompt_tokens"], row["output_tokens"]
        run.shard(2, rank, rows)
    return run


def test_shards_without_a_manifest_are_accepted(older_run, monkeypatch):
    records = responses_among(older_run.merge(monkeypatch))
    assert {record["id"] for record in records} == {prompt(number)["id"] for number in range(6)}
    assert {record["source"] for record in records} == {"unknown"}
    assert {record["tool"] for record in records} == {"x"}
    assert all(record["finished"] for record in records)
    assert older_run.report()["finish_reasons"] == {"not recorded": 6}


def test_without_a_manifest_the_ranks_must_be_complete(older_run, refused, monkeypatch):
    (older_run.folder / "run_2shards_0.jsonl").unlink()
    assert refused(older_run).startswith("no shard of rank 0 of 2")
    assert len(responses_among(older_run.merge(monkeypatch, "--allow_missing"))) == 3


def test_without_a_manifest_group_sizes_are_not_mixed(older_run, refused, monkeypatch):
    older_run.shard(1, 0, [answer(9)])
    assert "group sizes 1, 2" in refused(older_run)
    records = older_run.merge(monkeypatch, pattern="run_1shards_*.jsonl")
    assert len(responses_among(records)) == 1


def test_an_output_over_an_input_is_refused(run, refused):
    assert "is one of the shards" in refused(run, output="run_3shards_1.jsonl")
    (run.folder / "dummy.json").write_text("[]")
    flags = ("--dummy_data_file", run.folder / "dummy.json")
    assert "is the dummy data" in refused(run, *flags, output="dummy.json")


def test_an_output_folder_that_is_missing_is_refused(run, refused):
    assert "there is no folder" in refused(run, output="missing/merged.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "dummy.json is empty"),
        ("[{", "dummy.json, row 1: malformed JSON"),
        ('[{"conversations": []}]', "dummy.json, row 1: no conversation"),
        ('[{"conversations": [{"from": "gpt", "value": "x"}]}]', "row 1: turn 1 is not from"),
        ('[{"conversations": [{"from": "human", "value": "x"}]}]', "row 1: the last turn"),
    ],
)
def test_bad_dummy_data_is_refused(run, refused, content, message):
    (run.folder / "dummy.json").write_text(content)
    assert message in refused(run, "--dummy_data_file", run.folder / "dummy.json")


def test_bad_flags_and_bad_data_exit_with_2_and_1(run, run_script):
    script = "step2_principle_driven_self_alignment/merge_and_filter_self_align_with_dummy.py"
    pattern = ("--data_file_pattern", run.folder / "run_3shards_*.jsonl")
    output = ("--output_file", run.folder / "merged.json")
    assert run_script(script, *pattern, *output, "--no_such_flag").returncode == 2
    assert run_script(script, *pattern).returncode == 2
    assert run_script(script, *pattern, "--output_file", "merged.csv").returncode == 2
    refused = run_script(script, *pattern, *output, "--loop_words", 9)
    assert refused.returncode == 2
    assert "--loop_words: 9 is out of range; give 10 or more" in refused.stderr
    (run.folder / "run_3shards_0.jsonl").unlink()
    failed = run_script(script, *pattern, *output)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: 4 of 12 prompts have no answer")
    assert "Traceback" not in failed.stderr
    assert (run.folder / "merged.json").read_text() == "earlier"


def test_lone_surrogates_do_not_stop_a_merge(run, monkeypatch):
    """Half an emoji in a scraped prompt has no UTF-8 form: writing the outputs failed."""
    row = json.dumps({**answer(1), "instruction": "Half \ud83d of 😀?"})
    (run.folder / "run.manifest.json").unlink()
    run.shard(3, 1, [], end=row.encode() + b"\n")
    records = run.merge(monkeypatch, "--parquet")
    assert "Half ? of 😀?" in {record["instruction"] for record in records}
