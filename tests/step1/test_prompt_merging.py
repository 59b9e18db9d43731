"""Cleaning and merging: what each collection gives, what goes, and in which order."""

import gzip
import hashlib
import json
import math
import random

import clean_and_merge_prompts
import pytest
from token_lengths import TokenCounter

TREE = [
    {"message_id": "r1", "parent_id": None, "text": "What is a fjord?", "role": "prompter"},
    {"message_id": "a1", "parent_id": "r1", "text": "A valley.", "role": "assistant"},
    {"message_id": "r2", "parent_id": None, "text": "¿Qué es un río?", "role": "prompter"},
    {"message_id": "a2", "parent_id": "r2", "text": "Agua.", "role": "assistant"},
    {"message_id": "r3", "parent_id": None, "text": "Nobody answers?", "role": "prompter"},
    {"message_id": "r4", "parent_id": None, "text": "Deleted question", "role": "prompter"},
    {"message_id": "a4", "parent_id": "r4", "text": "Answer", "role": "assistant"},
    {"message_id": "r5", "parent_id": None, "text": "Deleted answer?", "role": "prompter"},
    {"message_id": "a5", "parent_id": "r5", "text": "Answer", "role": "assistant"},
    {"message_id": "r6", "parent_id": None, "text": "I am an assistant", "role": "assistant"},
    {"message_id": "a6", "parent_id": "r6", "text": "Answer", "role": "prompter"},
    {"message_id": "r1", "parent_id": None, "text": "What is a fjord?", "role": "prompter"},
    {"message_id": ["r7"], "parent_id": None, "text": "A list as id", "role": "prompter"},
]
TREE = [
    {"lang": "es" if "r2" in row["message_id"] else "en", "deleted": False, **row} for row in TREE
]
TREE[5]["deleted"] = TREE[8]["deleted"] = True


@pytest.fixture
def merge(run_stage, tokenizer, tmp_path):
    """Merges files given by flag and returns (records, report)."""

    def run(**flags):
        output = tmp_path / "merged.json"
        arguments = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
        ended = run_stage(
            clean_and_merge_prompts,
            *("--output_file", output, "--tokenizer_name", tokenizer, *arguments),
        )
        assert ended.code == 0, ended.err
        report = json.loads((tmp_path / "merged.report.json").read_text(encoding="utf-8"))
        return json.loads(output.read_text(encoding="utf-8")), report

    return run


def reasons(report: dict) -> dict[str, int]:
    return {reason: counts["total"] for reason, counts in report["dropped"]["by_reason"].items()}


def instructions(records: list[dict]) -> set[str]:
    return {record["instruction"] for record in records}


def test_record_is_as_the_next_stage_wants_it(merge, write_json):
    path = write_json(
        [
            {
                "instruction": "Translate this \n1 / 1",
                "input": "Où est-ce?",
                "output": "x",
                "by": "me",
            }
        ]
    )
    (record,), report = merge(sharegpt_prompt_path=path)
    text = b"Translate this\0" + "Où est-ce?".encode()
    assert record == {
        "id": hashlib.sha256(text).hexdigest()[:16],
        "instruction": "Translate this",
        "input": "Où est-ce?",
        "output": "",
        "source": "sharegpt",
        "by": "me",
    }
    assert list(record)[:5] == ["id", "instruction", "input", "output", "source"]
    assert report["cleaned_by_rule"] == {"edges": 1, "page_counter": 1}


def test_dolly_gives_its_context_free_categories(merge, write_json):
    def row(number, category, context=""):
        text = f"Question number {number} is what?"
        return {"instruction": text, "context": context, "category": category, "response": "x"}

    names = ("creative_writing", "brainstorming", "open_qa", "general_qa", "classification")
    rows = [row(number, name) for number, name in enumerate(names)]
    rows += [row(5, "closed_qa"), row(6, "open_qa", "Some context"), row(7, ["a", "list"])]
    records, report = merge(dolly_data=write_json(rows, "dolly.jsonl"))
    assert instructions(records) == {f"Question number {n} is what?" for n in range(5)}
    assert {record["source"] for record in records} == {"dolly"}
    assert reasons(report) == {"needs_context": 2, "has_context": 1}


def test_oasst_gives_roots_that_have_an_answer(merge, write_json):
    path = write_json(TREE, "oasst.jsonl")
    records, report = merge(oasst_data=path)
    assert instructions(records) == {"What is a fjord?", "¿Qué es un río?"}
    assert reasons(report) == {
        "not_a_root": 5,
        "unanswered": 2,
        "deleted": 1,
        "not_opened_by_human": 1,
        "duplicate": 1,
        "malformed_message": 1,
    }
    assert report["read"]["total"] == len(TREE)
    records, report = merge(oasst_data=path, languages="es,fr")
    assert instructions(records) == {"¿Qué es un río?"}
    assert reasons(report)["other_language"] == 1


def test_oasst_is_read_in_each_published_form(merge, tmp_path):
    """A message or a tree a row; pandas' NaN for "no parent"; compressed or not."""
    flat = [dict(row, parent_id=row["parent_id"] or math.nan) for row in TREE[:5]]
    trees = [
        {
            "message_tree_id": root["message_id"],
            "prompt": {**root, "replies": [dict(reply, replies=[])]},
        }
        for root, reply in (TREE[:2], TREE[2:4])
    ]
    trees.append({"message_tree_id": "r3", "prompt": {**TREE[4], "replies": []}})
    for name, rows in (("flat.messages.jsonl.gz", flat), ("trees.jsonl.gz", trees)):
        lines = "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_bytes(gzip.compress(lines.encode()))
        records, report = merge(oasst_data=tmp_path / name)
        assert instructions(records) == {"What is a fjord?", "¿Qué es un río?"}
        assert reasons(report) == {"not_a_root": 2, "unanswered": 1}


def test_a_collection_without_a_prompt_is_warned_of(merge, write_json, caplog):
    unanswered = write_json(TREE[4:5], "oasst.jsonl")
    merge(
        oasst_data=unanswered, sharegpt_prompt_path=write_json([{"instruction": "What is a cat?"}])
    )
    assert "warning: oasst1 gave no prompt; its 1 rows: unanswered 1" in caplog.text
    assert "sharegpt gave" not in caplog.text


def test_lengths_duplicates_and_leaks_go(merge, write_json, tmp_path):
    rows = [
        {"instruction": text}
        for text in (
            "What is the tallest tree in the world?",
            "what is the tallest tree in the WORLD",
            "Please tell me what is the biggest tree that has ever grown in all the world?",
            "Please tell me what is the biggest tree that has ever grown in all the worlds?",
            "word " * 300,
            "y" * 10_000_000,
            "a",
            "a\ud800b c",
            None,
            "\u200b\n1 / 1",
            "Please answer: how do I bake bread?",
        )
    ]
    questions = write_json([{"turns": ["How do I bake bread?"]}], "bench.jsonl")
    rejects = tmp_path / "rejects.jsonl"
    records, report = merge(
        sharegpt_prompt_path=write_json(rows),
        decontaminate_against=questions,
        rejects_file=rejects,
        near_duplicate_threshold="0.8",
    )
    assert reasons(report) == {
        "duplicate": 1,
        "near_duplicate": 1,
        "too_long": 2,
        "too_short": 1,
        "invalid_unicode": 1,
        "no_text": 1,
        "empty": 1,
        "benchmark_question": 1,
    }
    assert report["kept"]["total"] == len(records) == 2
    by_reason = {row["reason"]: row for row in map(json.loads, rejects.open(encoding="utf-8"))}
    assert by_reason["benchmark_question"]["shared"] == "how do i bake bread"
    assert by_reason["benchmark_question"]["benchmark"] == str(questions)
    assert by_reason["near_duplicate"]["of"] in {record["id"] for record in records}


def test_prompts_of_exactly_the_limits_stay(merge, write_json, tokenizer):
    """The longest may fill step 2's room with the cue; the shortest is measured without it."""
    cue = TokenCounter(str(tokenizer)).cue
    path = write_json([{"instruction": " ".join("abcdefgh"[:number])} for number in range(1, 9)])
    _, report = merge(sharegpt_prompt_path=path, min_prompt_len=3, max_prompt_len=6 + cue)
    assert report["kept"]["total"] == 4
    assert reasons(report) == {"too_short": 2, "too_long": 2}
    assert report["length_quantiles_tokens"]["0%"] == 3 + cue
    assert report["length_quantiles_tokens"]["100%"] == 6 + cue
    assert report["settings"]["tokenizer"] == {
        "name": str(tokenizer),
        "file": "tokenizer.model",
        "sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
    }


def test_the_page_shows_what_happened(merge, write_json, tmp_path):
    """Funnel, examples, clusters; texts are escaped, the same run gives the same page."""
    rows = [
        "Explain how tides work.",
        "Hi! Please explain how tides work, thanks.",
        "Write <script>alert(1)</script> in bold1 / 1",
        "keep going",
        "long " * 400,
    ]
    path = write_json([{"instruction": text} for text in rows])
    pages = []
    for _ in range(2):
        merge(sharegpt_prompt_path=path)
        pages.append((tmp_path / "merged.report.html").read_text(encoding="utf-8"))
    page = pages[0]
    assert pages[1] == page and "<script" not in page and "&lt;script&gt;" in page
    for shown in ("continuation", "too_long", "near_duplicate", "page_counter", "sharegpt"):
        assert shown in page
    assert "<h2>Prompts that ask for the same</h2>" in page and "sha256" in page
    report = json.loads((tmp_path / "merged.report.json").read_text(encoding="utf-8"))
    assert report["examples"]["dropped"]["continuation"][0]["text"] == "keep going"
    assert report["near_duplicate_clusters"][0]["dropped"] == 1
    before_and_after = report["examples"]["cleaned"]["page_counter"][0]
    assert before_and_after["before"] == rows[2] and rows[2].startswith(before_and_after["after"])


def test_no_source_gives_more_than_wished(merge, write_json):
    rows = [{"instruction": f"What is {n} times {n}?", "source": f"s{n % 3}"} for n in range(30)]
    rows = rows[:20] + [row for row in rows[20:] if row["source"] != "s2"]
    path = write_json(rows)
    chosen = {
        seed: merge(sharegpt_prompt_path=path, max_per_source=7, seed=seed) for seed in (1, 2)
    }
    for _, report in chosen.values():
        assert report["kept"]["by_source"] == {"s0": 7, "s1": 7, "s2": 6}
        assert reasons(report) == {"not_drawn": len(rows) - 20}
    assert instructions(chosen[1][0]) != instructions(chosen[2][0])
    assert merge(sharegpt_prompt_path=path, max_per_source=7, seed=1)[0] == chosen[1][0]


def test_order_of_rows_and_files_does_not_matter(merge, write_json, tmp_path):
    """Which of two duplicates stays is decided by their ids, also between sources."""
    rows = []
    for number in range(150):
        text = f"Tell me in a few plain words what the number {number} means to you today"
        rows += [{"instruction": f"{text}?"}, {"instruction": text.upper()}]
        rows += [{"instruction": f"{text} and tomorrow", "extra": number}]
    outputs = set()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        first = write_json(rows[:200], f"{seed}/a.json")
        second = write_json(rows[200:], f"{seed}/b.jsonl")
        for paths in ((first, second), (second, first)):
            merge(sharegpt_prompt_path=",".join(map(str, paths)))
            outputs.add((tmp_path / "merged.json").read_bytes())
    assert len(outputs) == 1


def test_the_seed_shuffles_and_nothing_else(merge, write_json):
    path = write_json([{"instruction": f"What is {n} plus {n}?"} for n in range(50)])
    first, again, other = (merge(sharegpt_prompt_path=path, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(map(repr, first)) == sorted(map(repr, other))


def test_other_tools_prompt_files_are_read(merge, shared_data):
    records, report = merge(sharegpt_prompt_path=shared_data / "raw" / "alpaca_3000.json")
    assert report["read"]["total"] == 3000
    assert len(records) > 2500
    assert all(len(record["id"]) == 16 for record in records)
