"""The opening prompts of ShareGPT conversations, in all their shapes."""

import json

import aggregate_sharegpt_prompts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sharegpt_conversations import opening_prompt

TURNS = [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello"}]
ACCEPTED = {
    "value": {"id": "a", "conversations": TURNS},
    "first piece": {"id": "abc_0", "conversations": TURNS},
    "no id": {"conversations": TURNS},
    "items": {"conversation_id": "x", "items": TURNS},
    "user and chatgpt": {
        "items": [{"from": "user", "text": "Hi there"}, {"from": "chatgpt", "text": "Hello"}]
    },
    "markdown": {
        "conversations": [
            {"from": "human", "markdown": "Hi there", "value": None},
            {"from": "gpt", "markdown": "Hello"},
        ]
    },
    "system turn in front": {"conversations": [{"from": "system", "value": "Be kind"}, *TURNS]},
    "chat keys": {
        "messages": [
            {"role": "user", "content": "Hi there"},
            {"role": "assistant", "content": "Hello"},
        ]
    },
    "content in parts": {
        "conversations": [
            {"role": "user", "content": [{"type": "text", "text": "Hi there"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        ]
    },
    "other spelling": {
        "conversations": [
            {"from": "Human", "value": "Hi there"},
            {"from": "GPT", "value": "Hello"},
        ]
    },
    "JSON text in a column": {"conversations": json.dumps(TURNS)},
    "a number in the id": {"id": "identity_3", "conversations": TURNS},
    "two human turns": {"conversations": [TURNS[0], *TURNS]},
}
REFUSED = {
    "turn_without_speaker": {"conversations": [{"text": "Hi there"}, *TURNS]},
    "not_opened_by_human": {"conversations": TURNS[::-1]},
    "unanswered": {"conversations": TURNS[:1]},
    "no_turns": {"id": "a", "conversations": []},
    "malformed_turn": {"conversations": ["Hi", "Hello"]},
    "not_a_conversation": "Hi there",
    "no_text": {"conversations": [{"from": "human", "value": None}, TURNS[1]]},
    "empty": {"conversations": [{"from": "human", "value": " \n"}, TURNS[1]]},
    "too_long": {"conversations": [{"from": "human", "value": "y" * 10_000_000}, TURNS[1]]},
    "invalid_unicode": {"conversations": [{"from": "human", "value": "a\ud800b"}, TURNS[1]]},
}
ODD = [None, 3, [], {}, {"conversations": None}, {"conversations": {"a": 1}}, {"items": "text"}]


@pytest.mark.parametrize("row", ACCEPTED.values(), ids=ACCEPTED)
def test_opening_is_found(row):
    opening = opening_prompt(row)
    assert (opening.text, opening.reason) == ("Hi there", None)


@pytest.mark.parametrize(("reason", "row"), REFUSED.items(), ids=REFUSED)
def test_reason_is_told(reason, row):
    assert opening_prompt(row).reason == reason


@pytest.mark.parametrize("row", ODD, ids=repr)
def test_odd_rows_have_no_turns(row):
    assert opening_prompt(row).reason in ("no_turns", "not_a_conversation")


@pytest.mark.parametrize("turn", [{}, {"from": ["x"]}, {"from": None, "value": 3}], ids=repr)
def test_odd_turns_are_no_openings(turn):
    """A speaker that is a list cannot be looked up in a set; it once could end the run."""
    reason = "not_opened_by_human" if turn else "turn_without_speaker"
    assert opening_prompt({"conversations": [turn, *TURNS]}).reason == reason
    assert opening_prompt({"conversations": [TURNS[0], turn]}).reason == "unanswered"


@pytest.fixture
def collect(run_stage, tmp_path):
    """Collects from files and returns (records, report)."""

    def run(*paths, **flags):
        arguments = [part for flag, value in flags.items() for part in (f"--{flag}", value)]
        output = tmp_path / "prompts.json"
        ended = run_stage(
            aggregate_sharegpt_prompts,
            f"--data_files={','.join(map(str, paths))}",
            *("--output_path", output, *arguments),
        )
        assert ended.code == 0, ended.err
        report = json.loads((tmp_path / "prompts.report.json").read_text(encoding="utf-8"))
        return json.loads(output.read_text(encoding="utf-8")), report

    return run


def test_all_formats_together_in_any_order(collect, write_json, conversation, tmp_path):
    files = [
        write_json([conversation("One?", "Yes", name="a")], "array.json"),
        write_json([conversation("Two?", "Yes", name="b", key="markdown")], "lines.jsonl"),
        tmp_path / "table.parquet",
    ]
    rows = [conversation("Three?", "Yes", name="c"), conversation("One?", "Yes", name="d")]
    pq.write_table(pa.Table.from_pylist(rows), files[2])
    records, report = collect(*files)
    assert {record["instruction"] for record in records} == {"One?", "Two?", "Three?"}
    assert {record["source"] for record in records} == {"sharegpt"}
    assert report["dropped"]["by_reason"]["duplicate"]["total"] == 1
    first = (tmp_path / "prompts.json").read_bytes()
    for order in (files[::-1], [tmp_path / "table.parquet", *files]):
        collect(*order)
        assert (tmp_path / "prompts.json").read_bytes() == first


def test_bad_rows_are_counted_and_kept_apart(collect, write_json, tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    path = write_json([*REFUSED.values(), ACCEPTED["value"]])
    records, report = collect(path, rejects_file=rejects)
    assert [record["instruction"] for record in records] == ["Hi there"]
    counted = {r: n["total"] for r, n in report["dropped"]["by_reason"].items()}
    assert counted == dict.fromkeys(REFUSED, 1)
    rejected = [json.loads(line) for line in rejects.open(encoding="utf-8")]
    assert [(r["reason"], r["row"]) for r in rejected] == [
        (reason, row) for row, reason in enumerate(REFUSED, 1)
    ]


def numbered(prefix: str, *pieces: tuple[int, str]) -> list[dict]:
    """Conversations of two turns with these numbers, each opened by this speaker."""
    return [
        {
            "id": f"{prefix}_{number}",
            "conversations": [
                {"from": speaker, "value": f"What is {prefix} {number}?"},
                {"from": "gpt" if speaker == "human" else "human", "value": "It is"},
            ],
        }
        for number, speaker in pieces
    ]


WHOLE = numbered("identity", *((n, "human") for n in range(20)))
SPLIT = numbered("kP2sVx7", (0, "human"), (2, "human"), (5, "gpt"))
ALONE = numbered("Qx9Lm2T", (8, "human")) + numbered("z8Yw1Kp", (3, "gpt"))


@pytest.mark.parametrize(
    ("rows", "later"),
    [
        (WHOLE, 0),  # they would overlap, and odd turns would be the assistant's
        (SPLIT, 2),
        (WHOLE + SPLIT, 2),
        (numbered("abc", (8, "human")), 0),  # a number alone shows nothing
        (SPLIT + ALONE, 4),  # but the others show what it means here
        (WHOLE + ALONE, 0),
    ],
)
def test_the_series_shows_what_a_number_in_an_id_means(collect, write_json, rows, later):
    """499 of 500 conversations named identity_N were left out as pieces of one, without a word."""
    rows = [*rows, *numbered("plain", (0, "human"))]
    _, report = collect(write_json(rows[::2], "a.json"), write_json(rows[1::2], "b.json"))
    reasons = {r: n["total"] for r, n in report["dropped"]["by_reason"].items()}
    assert reasons.get("later_piece", 0) == later


def test_a_file_of_later_pieces_is_warned_of(collect, write_json, caplog):
    collect(write_json([*SPLIT, *SPLIT], "pieces.json"), write_json(WHOLE, "whole.json"))
    assert "pieces.json: 4 of 6 conversations have ids such as abc_8" in caplog.text
    assert "whole.json" not in caplog.text


def test_real_conversations_give_sensible_counts(collect, shared_data):
    records, report = collect(shared_data / "raw" / "sharegpt_sample.json")
    assert report["read"]["total"] == 543
    assert report["dropped"]["by_reason"]["later_piece"]["total"] == 236
    assert len(records) == 301
