"""What a merge writes: training records, reports, card and parquet folder; and what it explains."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filter_settings import FilterSettings
from response_judging import JudgingSettings, judge_all
from step2.merge_cases import OPENING, REPLY, Run, prompt, responses_among
from step2.merge_cases import response as answer
from user_error import TryAgainError, UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = "step2_principle_driven_self_alignment/merge_and_filter_self_align_with_dummy.py"
WILD = "<script>document.title='run'</script></style></pre>&amp; \"'><img src=x onerror=alert(1)>"


def wild_responses():
    """Kept, dropped and unfinished responses of two sources; markup in every field."""
    rows = [answer(number) for number in range(20)]
    rows[3] = answer(3, reply=f"{REPLY} {WILD}", source=WILD, extra=WILD)
    rows[4] = answer(4, output=f" Well. {WILD}", instruction=f"Explain {WILD} please")
    rows[5] = answer(5, reply=f"{REPLY} Look at Lis", finish_reason="length")
    rows[6] = answer(6, reply=f"{REPLY} (auto reply)")
    rows[7] = answer(7, reply="Yes.")
    rows[8] = answer(8, output=f" {OPENING} {WILD} Watson: no", input=WILD)
    return rows


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A run of 20 responses in 2 shards with a manifest, merged once."""
    run = Run(tmp_path_factory.mktemp("merged"))
    rows = wild_responses()
    run.manifest([{**row, "output": ""} for row in rows])
    run.shard(2, 0, rows[::2])
    run.shard(2, 1, rows[1::2])
    with pytest.MonkeyPatch.context() as patch:
        run.records = run.merge(patch, "--parquet")
    return run


def test_example_ids_count_from_1_over_everything(merged):
    records = merged.records
    assert [record["example_id"] for record in records] == list(range(1, len(records) + 1))
    assert len(responses_among(records)) == 16
    places = [r["example_id"] for r in records if r["source"] != "dummy"]
    assert max(places) - min(places) > len(records) / 2, "the responses are not mixed in"


def test_records_have_the_fields_of_the_contract(merged):
    for record in merged.records:
        names = ["example_id", "id", "instruction", "input", "output", "finished", "source"]
        assert list(record)[:8] == [*names, "principles"]
        assert isinstance(record["finished"], bool)
        assert not set(record) & {"finish_reason", "prompt_tokens", "output_tokens"}
        assert record["output"] and "(internal thoughts)" not in record["output"]
    by_id = {record["id"]: record for record in merged.records}
    assert by_id[prompt(0)["id"]]["output"] == f"Tale 0 goes like this. {REPLY}"
    assert by_id[prompt(5)["id"]]["output"] == REPLY
    assert [by_id[prompt(number)["id"]]["finished"] for number in (0, 5)] == [True, False]
    assert by_id[prompt(3)["id"]]["extra"] == WILD


def test_the_order_hangs_on_the_seed_alone(tmp_path, monkeypatch):
    rows = [answer(number) for number in range(40)]
    orders = []
    for size, seed, name in ((1, 1, "a"), (4, 1, "b"), (4, 2, "c")):
        run = Run(tmp_path, name)
        random.Random(size).shuffle(rows)
        for rank in range(size):
            run.shard(size, rank, rows[rank::size])
        pattern = f"{name}_*shards_*.jsonl"
        records = run.merge(monkeypatch, "--seed", seed, pattern=pattern, output=f"{name}.json")
        orders.append([record["id"] for record in records])
    assert orders[0] == orders[1]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_json_and_jsonl_hold_the_same_records(merged, monkeypatch):
    assert merged.merge(monkeypatch, output="lines.jsonl") == merged.records
    lines = (merged.folder / "lines.jsonl").read_text().splitlines()
    assert len(lines) == len(merged.records)


def test_name_and_developer_fill_the_dummy_data(merged, monkeypatch):
    flags = ("--assistant_name", "Ada <1>", "--developer", r"the \1 & Co")
    records = merged.merge(monkeypatch, *flags, output="named.json")
    dummies = [record for record in records if record["source"] == "dummy"]
    assert len(dummies) >= 900
    assert all(record["finished"] for record in dummies)
    text = json.dumps(dummies)
    assert "Ada <1>" in text and r"the \\1 & Co" in text
    assert r"el equipo de \\1 & Co" in text  # without the English article
    assert not re.search(r"\{(assistant_name|developer|developer_name)\}", text)
    assert "Dromedary" not in re.sub(r"### Dromedary", "", text)
    assert "Dromedary" in json.dumps([r for r in merged.records if r["source"] == "dummy"])


@pytest.mark.parametrize(
    ("reply", "instruction", "expected"),
    [
        ("I am Watson, an AI.", "Who are you?", "I am Dromedary, an AI."),
        ("Watson’s way is this.", "Hm?", "Dromedary’s way is this."),
        ("Watsonville is a town.", "Where?", "Watsonville is a town."),
        ("Dr. Watson met Holmes.", "Who met Holmes?", "Dr. Watson met Holmes."),
        ("Ask Emma Watson.", "Whom?", "Ask Emma Watson."),
        ("我是Watson。", "Who?", "我是Dromedary。"),
        (
            "I am Watson, and Dr. Watson is another.",
            "Sherlock?",
            "I am Dromedary, and Dr. Watson is another.",
        ),
        (
            "I am Watson Smith, and Watson helps you.",
            "Who?",
            "I am Dromedary Smith, and Dromedary helps you.",
        ),
    ],
)
def test_the_codename_is_replaced_as_a_word(tmp_path, monkeypatch, reply, instruction, expected):
    run = Run(tmp_path)
    run.shard(1, 0, [answer(0, reply=f"{reply} {REPLY}", instruction=instruction)])
    (record,) = responses_among(run.merge(monkeypatch, "--min_length", 0))
    assert record["output"] == f"{expected} {REPLY}"


def test_published_rules_decide_otherwise(merged, monkeypatch):
    records = merged.merge(monkeypatch, "--published_rules", output="published.json")
    kept = {record["id"]: record for record in responses_among(records)}
    assert prompt(6)["id"] in kept, "it knew no rule for leaked thoughts"
    assert prompt(7)["id"] not in kept
    assert kept[prompt(5)["id"]]["output"].endswith("Look at"), "it kept half sentences"
    assert "judged by the published rules" in (merged.folder / "published.report.html").read_text()


def test_a_merge_that_keeps_nothing_is_no_success(merged, monkeypatch, caplog):
    """It wrote the identity conversations alone and ended with 0."""
    caplog.set_level("INFO")
    flags, output = ("--min_length", 9999), "nothing.json"
    with pytest.raises(UserError, match="none of the responses was kept"):
        merged.merge(monkeypatch, *flags, output=output)
    assert "dropped      17  too_short" in caplog.text
    assert not list(merged.folder.glob("nothing*"))
    assert not responses_among(merged.merge(monkeypatch, *flags, "--allow_empty", output=output))
    assert "None was kept" in (merged.folder / "nothing.report.html").read_text()


def test_records_name_the_principles_of_their_thoughts(tmp_path, monkeypatch):
    """Number and name that don't belong together are no principle, and were charted as one."""
    run = Run(tmp_path)
    thoughts = [
        "Principle 8 (knowledge recitation) and principle 2 (informative) apply.",
        "Principle 12 (candor) applies, and Principles 3 (helpful).",
        "I know.",
    ]
    rows = [answer(n, output=f" {OPENING} {t}\n\nWatson: {REPLY}") for n, t in enumerate(thoughts)]
    rows[0]["principles"] = "the user's own"
    run.shard(1, 0, rows)
    records = responses_among(run.merge(monkeypatch, "--keep_thoughts", "--parquet"))
    found = {record["id"]: record for record in records}
    named = [found[prompt(number)["id"]]["principles"] for number in range(3)]
    assert named == [[2, 8], [3], []]
    assert found[prompt(1)["id"]]["thoughts"] == f"{OPENING} {thoughts[1]}"
    report = run.report()
    assert set(report["principles"]) == {
        "8 (knowledge recitation)",
        "2 (informative)",
        "3 (helpful)",
    }
    assert report["misnamed_principles"] == {"12 (candor)": 1}
    assert report["misnamed_share"] == 0.25
    page = (tmp_path / "merged.report.html").read_text()
    assert "Left out are 25 % of all namings" in page

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "merged_dataset/data")
    assert table["principles"].to_pylist().count([2, 8]) == 1
    assert len(set(table["thoughts"].to_pylist())) == 4


def test_principles_of_an_unknown_prompt_are_not_checked(tmp_path, monkeypatch, caplog):
    run = Run(tmp_path)
    run.manifest([prompt(0)])
    rows = [answer(0, output=f" {OPENING} By principle 12 (candor).\n\nWatson: {REPLY}")]
    run.shard(1, 0, rows)
    other = tmp_path / "other.txt"
    other.write_text("1 (kind). Be kind.\n\nUser:")
    (record,) = responses_among(run.merge(monkeypatch, "--prompt_file", other))
    assert record["principles"] == [12]
    assert "is not the principle prompt of the run" in caplog.text
    assert "was not checked" in (tmp_path / "merged.report.html").read_text()


def test_the_share_of_identity_is_capped_by_a_seeded_draw(merged, monkeypatch, caplog):
    """Nine tenths of the quickstart's records were about the assistant itself."""
    assert "identity conversations; from 25% on" in merged.report()["warnings"][0]
    everything = {record["id"] for record in merged.records}
    drawn = []
    for seed in (1, 1, 2):
        flags = ("--identity_share", 0.2, "--seed", seed)
        records = merged.merge(monkeypatch, *flags, output="capped.json")
        assert len(responses_among(records)) == 16
        assert len(records) == 20
        drawn.append({record["id"] for record in records if record["source"] == "dummy"})
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[2] < everything
    report = merged.report("capped")
    assert report["warnings"] == []
    assert report["training_records"]["dummy_left_out"] == len(everything) - 20
    assert report["training_records"]["identity_share"] == 0.2
    none = merged.merge(monkeypatch, "--identity_share", 0, output="capped.json")
    assert len(none) == 16


def test_the_report_counts_everything_once(merged):
    report = merged.report()
    responses = report["responses"]
    assert responses == {"judged": 20, "kept": 16, "dropped": 4, "finished": 15, "unfinished": 1}
    dropped = {row["rule"]: row["responses"] for row in report["dropped"] if row["responses"]}
    assert dropped == {"wrong_opening": 1, "no_reply": 1, "leaked_thoughts": 1, "too_short": 1}
    assert sum(sum(outcomes.values()) for outcomes in report["by_source"].values()) == 20
    assert report["by_source"]["dolly"] == {
        "kept": 7,
        "wrong_opening": 1,
        "leaked_thoughts": 1,
        "no_reply": 1,
    }
    assert report["finish_reasons"] == {"stop": 19, "length": 1}
    assert report["principles"] == {"2 (informative)": 16, "8 (knowledge recitation)": 16}
    assert sum(report["lengths"]["raw_responses"].values()) == 20
    assert sum(report["lengths"]["kept_replies"].values()) == 16
    assert len(report["examples"]["kept"]) == 12
    assert len(report["examples"]["too_short"]) == 1
    assert report["training_records"]["total"] == len(merged.records)
    assert report["run"]["manifest"]["prompts"] == 20


def test_the_card_is_one_of_the_hub(merged):
    import yaml

    text = (merged.folder / "merged.README.md").read_text()
    _, header, body = text.split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["size_categories"] == ["1K<n<10K"]
    assert fields["license"] == "other"
    assert "configs" not in fields
    assert "| dolly | 10 | 7 | 70% |" in body
    assert "<script" not in body and "Licence" in body
    assert '"seed": 42' in body


@pytest.mark.slow
def test_datasets_loads_the_parquet_folder(merged, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = merged.folder / "merged_dataset"
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    names = loaded.column_names
    expected = [{name: record[name] for name in names} for record in merged.records]
    assert loaded.to_list() == expected
    assert "default" in datasets.get_dataset_config_names(str(folder))


def test_a_second_merge_replaces_the_first(merged, monkeypatch):
    """The test passed when the second merge wrote nothing."""
    names = sorted(path.name for path in merged.folder.iterdir())
    merged.merge(monkeypatch, "--parquet", "--min_length", 9000, "--seed", 7, "--allow_empty")
    card = (merged.folder / "merged_dataset" / "README.md").read_text()
    assert merged.report()["responses"]["kept"] == 0
    assert "Of 20 responses 0 were kept" in card
    assert "None was kept" in (merged.folder / "merged.report.html").read_text()
    again = merged.merge(monkeypatch, "--parquet")
    assert again == merged.records
    assert sorted(path.name for path in merged.folder.iterdir()) == names


@pytest.mark.slow
def test_several_processes_judge_like_one():
    settings = JudgingSettings(FilterSettings(OPENING), "Dromedary", 42)
    rows = [*wild_responses(), *(answer(number) for number in range(100, 800))]

    def judged(workers):
        batches = list(judge_all(iter(rows), settings, workers))
        total = batches[0].statistics
        for batch in batches[1:]:
            total.merge(batch.statistics)
        return [line for batch in batches for line in batch.kept], total

    assert judged(1) == judged(2)


@pytest.mark.slow
def test_a_killed_worker_is_one_line():
    """The system kills a process where memory runs out; it ended in a traceback."""

    def rows():
        for number in range(3000):
            if number == 2000:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield answer(number)

    settings = JudgingSettings(FilterSettings(OPENING), "Dromedary", 42)
    with pytest.raises(TryAgainError, match="was killed, most likely for lack of memory"):
        list(judge_all(rows(), settings, 2))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, ["kept, finished", "leaked_thoughts  passes", "reply, before the codename"]),
        (5, ["kept, unfinished", "finish reason length"]),
        (6, ["dropped: leaked_thoughts", "leaked_thoughts  catches: (auto reply)"]),
        (7, ["dropped: too_short", "4 characters, the limit is 160", "source sharegpt"]),
    ],
)
def test_explain_prints_the_path_through_the_rules(merged, monkeypatch, capsys, number, expected):
    import merge_and_filter_self_align_with_dummy as script

    before = sorted(merged.folder.iterdir())
    response_id = prompt(number)["id"]
    pattern = str(merged.folder / "run_*.jsonl")
    flags = ["merge", "--data_file_pattern", pattern, "--explain", response_id]
    monkeypatch.setattr(sys, "argv", flags)
    script.main()
    text = capsys.readouterr().out
    assert f"run_2shards_{number % 2}.jsonl" in text
    assert response_id in text
    assert f"| Tale {number}?" in text
    for part in expected:
        assert part in text
    assert sorted(merged.folder.iterdir()) == before


def test_explain_of_an_unknown_id_is_an_error(merged, monkeypatch):
    with pytest.raises(UserError, match="none of the 2 shards has a response with the id nobody"):
        merged.merge(monkeypatch, "--explain", "nobody")


def test_all_data_is_escaped(merged):
    page = (merged.folder / "merged.report.html").read_text()
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<img" not in page
    assert "&lt;script&gt;" in page and "&lt;/style&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", page.replace("src=x onerror", ""))


def test_help_and_refused_flags_need_no_large_library():
    """Each was imported before the command line was looked at."""
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / SCRIPT)]
    for flags in (["--help"], ["--seed", "x"]):
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"numpy", "pandas", "pyarrow", "jinja2", "torch", "ijson"}


@pytest.mark.slow
def test_a_browser_shows_markup_as_text(merged, tmp_path):
    """Opened in a real browser: nothing of the data runs, and everything of it can be read."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    page, shot = merged.folder / "merged.report.html", tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2600"]
    shown = subprocess.run(
        [*command, f"--screenshot={shot}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<title>merged</title>" in shown, "a script of the data ran"
    assert "<script" not in shown and "<img" not in shown
    assert shown.count("</style>") == 1
    assert "Why responses were dropped" in shown
    assert shot.stat().st_size > 50_000


def test_the_published_name_of_the_script_works(merged, run_script, tmp_path):
    done = run_script(
        SCRIPT.replace("filter_self", "fileter_self"),
        *("--data_file_pattern", merged.folder / "run_2shards_*.jsonl"),
        *("--output_file", tmp_path / "merged.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "kept 16 of 20 responses (80.0 %), 15 of them finished" in done.stderr
    assert done.stdout == ""
    assert json.loads((tmp_path / "merged.json").read_text()) == merged.records
