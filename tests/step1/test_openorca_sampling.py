"""Drawing from OpenOrca: the rules, the quotas, and a draw that no order can change."""

import hashlib
import json
import random
from collections import Counter

import openorca_sample
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import subsample_openorca_prompts
from inference_tasks import is_inference_task
from openorca_sample import (
    CandidateWindow,
    OpenOrcaSampler,
    SamplingRules,
    read_openorca,
)
from preparation_report import PreparationReport
from prompt_output import PromptOutput
from prompt_sources import find_sources
from step1.inference_forms import INFERENCE, OTHERS
from token_lengths import TokenCounter

LABELS = [
    "Premise: A man sleeps.\nHypothesis: A man is awake.\nIs it entailed?",
    "premise : It rains. hypothesis : It is wet.",
    "Hypothesis 2: The dog runs.\n  Premise 2: A dog is out.",
    "**Premise:** A man sleeps. **Hypothesis:** He rests.",
    "Given [PREMISE] A man sleeps. [HYPOTHESIS] He rests.",
    "Does it follow?\n- yes\n- It is not possible to tell\n- no",
]


def test_inference_tasks_are_told_from_others(capsys):
    """By their form: 40 forms of the collections' templates and 40 tasks that look alike."""
    found = is_inference_task(pa.array(INFERENCE)).sum()
    false = is_inference_task(pa.array(OTHERS)).sum()
    with capsys.disabled():
        print(
            f"\ninference forms: {found} of {len(INFERENCE)} found, {false} of {len(OTHERS)} false"
        )
    assert len(INFERENCE) == len(OTHERS) == 40
    assert found >= 38 and false <= 1


@pytest.mark.parametrize("question", LABELS)
def test_labels_and_options_tell_an_inference_task(question):
    assert is_inference_task(pa.array([question, None])).tolist() == [True, False]


def rows_of(*collections: str, count: int = 40) -> list[tuple[str, str]]:
    return [
        (f"{name}.{number}", f"Question {number} about {name}, please?")
        for name in collections
        for number in range(count)
    ]


@pytest.fixture
def draw(run_stage, tokenizer, tmp_path):
    """Draws from files and returns (records, report)."""

    def run(*paths, **flags):
        output = tmp_path / "drawn.json"
        arguments = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
        ended = run_stage(
            subsample_openorca_prompts,
            *("--train_data_path", ",".join(map(str, paths)), "--output_path", output),
            *("--tokenizer_name", tokenizer, *arguments),
        )
        assert ended.code == 0, ended.err
        report = json.loads((tmp_path / "drawn.report.json").read_text(encoding="utf-8"))
        return json.loads(output.read_text(encoding="utf-8")), report

    return run


def test_each_collection_gives_its_quota(draw, write_openorca):
    rows = rows_of("niv", "flan", "t0") + rows_of("cot", count=3)
    records, report = draw(write_openorca(rows), max_samples_per_dataset=10)
    expected = {"openorca/niv": 10, "openorca/flan": 10, "openorca/t0": 10, "openorca/cot": 3}
    assert Counter(record["source"] for record in records) == expected
    assert report["kept"] == {"total": 33, "by_source": dict(sorted(expected.items()))}
    assert report["dropped"]["by_reason"]["not_drawn"]["total"] == 90
    assert list(records[0]) == ["id", "instruction", "input", "output", "source"]


def test_every_drop_has_its_reason(draw, write_openorca, tmp_path):
    rows = [
        ("niv.1", "What is a cat?"),
        ("niv.2", "what is a cat"),
        ("niv.3", "What is a cat?"),
        ("cot.1", "What is a CAT?"),
        ("niv.4", LABELS[0]),
        ("t0.1", "long " * 300),
        ("t0.2", "y" * 10_000_000),
        ("flan.1", None),
        ("flan.2", " \n "),
        ("flan.3", "  What is a dog?\n"),
    ]
    rejects = tmp_path / "rejects.jsonl"
    records, report = draw(write_openorca(rows), rejects_file=rejects)
    by_reason = {r: n["total"] for r, n in report["dropped"]["by_reason"].items()}
    assert by_reason == {
        "duplicate": 3,
        "natural_language_inference": 1,
        "too_long": 2,
        "no_text": 1,
        "empty": 1,
    }
    assert {record["instruction"].lower().strip("?") for record in records} == {
        "what is a cat",
        "what is a dog",
    }
    rejected = Counter(json.loads(line)["reason"] for line in rejects.open(encoding="utf-8"))
    assert rejected == by_reason
    assert report["read"]["total"] == report["kept"]["total"] + report["dropped"]["total"] == 10


def test_every_row_is_counted_once(draw, write_openorca, monkeypatch):
    """Also one that breaks two rules, and duplicates that different windows meet."""
    monkeypatch.setattr(openorca_sample, "LEAST_CHUNK", 3)
    monkeypatch.setattr(openorca_sample, "WINDOW_FACTOR", 1)
    rows = [("niv.1", LABELS[0] + " long" * 3000), ("niv.2", None), ("niv.3", " ")]
    rows += [(f"niv.{10 + n}", f"QUESTION {n % 7}, please!?"[: 18 + n % 3]) for n in range(60)]
    rows += rows_of("cot", count=9)
    for samples in (1, 4, 7, 100):
        records, report = draw(write_openorca(rows), max_samples_per_dataset=samples)
        counted = {r: n["by_source"] for r, n in report["dropped"]["by_reason"].items()}
        assert counted["natural_language_inference"] == {"openorca/niv": 1}
        assert "too_long" not in counted
        for source, read in report["read"]["by_source"].items():
            dropped = sum(by_source.get(source, 0) for by_source in counted.values())
            assert read == report["kept"]["by_source"][source] + dropped
        assert len(records) == min(samples, 7) + min(samples, 9)
    assert counted["duplicate"] == {"openorca/niv": 53}


def test_order_of_rows_and_files_does_not_matter(draw, write_openorca, monkeypatch, tmp_path):
    """Also with windows so small that the rows are read several times."""
    rows = rows_of("niv", "flan", "t0", "cot", count=120)
    rows += [(f"niv.{1000 + n}", f"QUESTION {n} about niv please") for n in range(60)]
    outputs = set()
    for window in (256, 4):
        monkeypatch.setattr(openorca_sample, "LEAST_CHUNK", window)
        monkeypatch.setattr(openorca_sample, "WINDOW_FACTOR", 1)
        for seed in (0, 1):
            random.Random(seed).shuffle(rows)
            third = len(rows) // 3
            files = [
                write_openorca(rows[:third], f"{seed}/a.parquet"),
                write_openorca(rows[third : 2 * third], f"{seed}/b.parquet"),
                write_openorca(rows[2 * third :], f"{seed}/c.parquet"),
            ]
            for order in (files, files[::-1], [files[0].parent]):
                draw(*order, max_samples_per_dataset=50)
                outputs.add((tmp_path / "drawn.json").read_bytes())
        monkeypatch.undo()
    assert len(outputs) == 1


def test_a_window_stays_small_and_holds_the_smallest():
    digests = [hashlib.sha256(b"%d" % number).digest() for number in range(1000)]
    window, most = CandidateWindow(10, b""), 0
    for digest in digests * 2:
        if digest <= window.ceiling:
            window.add(digest, b"text")
        most = max(most, len(window.prompts))
    assert most < 20 and not window.holds_all
    assert window.in_order() == [(digest, b"text", 2) for digest in sorted(digests)[:10]]


def test_the_seed_decides(draw, write_openorca):
    path = write_openorca(rows_of("niv"))
    first, again, other = (
        draw(path, max_samples_per_dataset=10, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first == again
    assert {record["id"] for record in first} != {record["id"] for record in other}


def test_every_row_is_drawn_equally_often(write_openorca, tokenizer, tmp_path):
    path = write_openorca(rows_of("niv", count=20))
    batches = list(read_openorca(find_sources([str(path)], "--train_data_path")))
    counter, drawn, draws = TokenCounter(str(tokenizer)), Counter(), 2000
    for seed in range(draws):
        report = PreparationReport("tokens", {})
        output = PromptOutput(tmp_path / "none.json", report, None)
        sampler = OpenOrcaSampler(SamplingRules(5, 256, seed), counter, output)
        records, _ = sampler.draw(lambda: batches)
        drawn.update(record["instruction"] for record in records)
    expected = draws * 5 / 20
    counts = [drawn[f"Question {n} about niv, please?"] for n in range(20)]
    # five at a time without replacement: variances are 15/19 of the independent ones
    chi_square = sum((count - expected) ** 2 for count in counts) / expected / (15 / 19)
    assert chi_square < 43.8  # 999 of 1,000 fair draws, 19 degrees of freedom


def test_a_dictionary_column_and_a_large_string_are_text(draw, tmp_path):
    ids = pa.array(["niv.1", "cot.2"])
    for column in (
        pa.array(["What?", "Why so?"]).dictionary_encode(),
        pa.array(["What?", "Why so?"], pa.large_string()),
    ):
        pq.write_table(pa.table({"id": ids, "question": column}), tmp_path / "x.parquet")
        records, _ = draw(tmp_path / "x.parquet")
        assert {record["instruction"] for record in records} == {"What?", "Why so?"}
