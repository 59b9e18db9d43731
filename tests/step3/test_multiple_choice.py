"""Multiple choice: every choice is scored, and the numbers are what their definitions say."""

import csv
import json
import math

import evaluate_multiple_choice
import pytest
import torch
from base_tokenizer import load_tokenizer
from confidence_intervals import bootstrap_interval, wilson_interval
from engraved_model import load_base_model
from engraving_data import DialogueTokenizer
from multiple_choice import (
    Question,
    choice_log_likelihoods,
    question_score,
    questions_of_rows,
    read_questions,
)

TRUTHFUL = {
    "question": "Has a camel a hump?",
    "mc1_targets": {"choices": ["Yes, it has.", "No.", "It has nine."], "labels": [1, 0, 0]},
    "mc2_targets": {"Yes, it has.": 1, "One or two.": 1, "No.": 0},
}
PUBLISHED_ROW = {
    "Type": "Adversarial",
    "Question": "Has a camel a hump?",
    "Best Answer": "Yes, it has.",
    "Correct Answers": "Yes, it has.; One or two.",
    "Incorrect Answers": "No.; It has nine.; ",
}
PAIRS = [
    {"input": "Help?", "targets": {"choices": ["Gladly.", "Go away."], "labels": [1, 0]}},
    {"input": "Help?", "target_scores": {"Gladly.": 1, "Go away.": 0}},
    {"prompt": "Help?", "chosen": "Gladly.", "rejected": "Go away."},
]


def test_truthfulqa_as_json_and_as_csv(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([TRUTHFUL]))
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, PUBLISHED_ROW)
        writer.writeheader()
        writer.writerow(PUBLISHED_ROW)
    single, several = read_questions(tmp_path / "a.json")
    assert (single.task, single.choices[2], single.labels) == ("mc1", "It has nine.", (1, 0, 0))
    assert (several.task, several.labels) == ("mc2", (1, 1, 0))
    single, several = read_questions(tmp_path / "a.csv")
    assert single.choices == ("Yes, it has.", "No.", "It has nine.")
    assert single.labels == (1, 0, 0)
    assert several.choices == ("Yes, it has.", "One or two.", "No.", "It has nine.")
    assert several.labels == (1, 1, 0, 0)


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_in_their_three_shapes(row, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "a.json").write_text(json.dumps({"examples": [row]}))
    expected = [Question("pairs", "Help?", ("Gladly.", "Go away."), (1, 0))]
    assert read_questions(tmp_path / "a.jsonl") == read_questions(tmp_path / "a.json") == expected


@pytest.mark.parametrize(
    "row",
    [
        {"question": "No targets?"},
        {"prompt": "?", "chosen": "Yes."},
        {"input": "?", "target_scores": {"Yes.": 1, "Also.": 1}},
        {"input": "?", "targets": {"choices": ["Yes."], "labels": [1, 0]}},
        "text",
    ],
)
def test_rows_that_are_no_question_are_named(row):
    with pytest.raises(ValueError, match=r"rows, row 2: not a multiple-choice question"):
        questions_of_rows([PAIRS[0], row], "rows")


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_every_choice_gets_its_own_log_likelihood(random_model, batch_size):
    """A known implementation scored only the first half; padding must not move a score either."""
    model = load_base_model(str(random_model)).eval()
    encoder = DialogueTokenizer(load_tokenizer(str(random_model)))
    questions = [*questions_of_rows([TRUTHFUL, *PAIRS], "rows")]
    prompts = [f"{question.text}\n" * (1 + index) for index, question in enumerate(questions)]
    scores = choice_log_likelihoods(model, encoder, prompts, questions, batch_size)
    assert [len(row) for row in scores] == [3, 3, 2, 2, 2]
    for prompt, question, row in zip(prompts, questions, scores, strict=True):
        start = encoder.encode_start(prompt)
        for choice, score in zip(question.choices, row, strict=True):
            ids = start + encoder.encode_continuation(choice)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double()
            steps = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            assert score == pytest.approx(steps[len(start) - 1 :].sum().item(), abs=1e-3)


def test_scores_of_the_tasks():
    single = Question("mc1", "", ("a", "b", "c"), (0, 1, 0))
    assert question_score(single, [-3.0, -2.0, -2.5]) == 1.0
    assert question_score(single, [-3.0, -2.0, -1.5]) == 0.0
    assert question_score(single, [-2.0, -2.0, -3.0]) == 0.0  # a tie is no success
    several = Question("mc2", "", ("a", "b", "c"), (1, 0, 1))
    likelihoods = [math.log(share) - 1000 for share in (0.1, 0.3, 0.2)]
    assert question_score(several, likelihoods) == pytest.approx(0.5)


def test_intervals_against_known_values():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    values = [0.0] * 30 + [1.0] * 70
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1)
    spread = 1.96 * math.sqrt(0.7 * 0.3 / 100)  # the normal approximation
    assert (low, high) == pytest.approx((0.7 - spread, 0.7 + spread), abs=0.02)


def test_base_against_engraved_side_by_side(
    run_main, random_model, talking_model, tmp_path, capsys
):
    """The engraved model knows one reply by heart, so it prefers it; the base has no idea."""
    wrong = ["I am rain.", "I am a camel.", "Nine."]
    row = {"choices": [*wrong[:2], "I am Dromedary.", wrong[2]], "labels": [0, 0, 1, 0]}
    rows = [{"question": "Who are you?", "mc1_targets": row, "mc2_targets": row}]
    pair = {"prompt": "Who are you?", "chosen": "I am Dromedary.", "rejected": wrong[0]}
    (tmp_path / "truthful.json").write_text(json.dumps(rows * 5))
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * 4)
    files = f"{tmp_path / 'truthful.json'},{tmp_path / 'pairs.jsonl'}"
    code = run_main(
        evaluate_multiple_choice,
        *("--base_model", random_model, "--engraved_model", talking_model),
        *("--data_files", files, "--output_file", tmp_path / "result.json", "--limit", 3),
    )
    assert code == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["task", "MC1", "MC2", "pairs"]
    content = json.loads((tmp_path / "result.json").read_text())
    for task in ("mc1", "mc2", "pairs"):
        result = content["results"][task]
        assert result["questions"] == 3
        assert result["engraved"]["score"] > 0.99
        low, high = result["engraved"]["interval"]
        assert 0 < low <= high <= 1.0
        gain = result["engraved"]["score"] - result["base"]["score"]
        assert result["difference"]["score"] == pytest.approx(gain)
    assert len(content["questions"][0]["base_log_likelihoods"]) == 4


def test_missing_file_and_unknown_flag(run_main, tmp_path, capsys):
    flags = ("--base_model", "x", "--engraved_model", "y", "--output_file", tmp_path / "out.json")
    with pytest.raises(FileNotFoundError, match=r"no file '.*none\.csv'; --data_files takes"):
        run_main(evaluate_multiple_choice, *flags, "--data_files", tmp_path / "none.csv")
    with pytest.raises(SystemExit) as end:
        run_main(evaluate_multiple_choice, *flags, "--data_files", "a.csv", "--shots", "3")
    assert end.value.code == 2
    assert "unrecognized arguments: --shots" in capsys.readouterr().err
