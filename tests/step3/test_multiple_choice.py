"""Multiple choice: every choice is scored, and the numbers are what their definitions say."""

import csv
import json
import math
import shutil

import evaluate_multiple_choice
import numpy
import pytest
import torch
from base_tokenizer import load_tokenizer
from compared_models import EngravedDialogue, PrinciplesDialogue
from confidence_intervals import bootstrap_interval, wilson_interval
from dialogue_format import DEFAULT_META_PROMPTS, choose_meta_prompt
from engraved_model import load_base_model
from engraving_command import UserError
from engraving_data import DialogueTokenizer
from log_likelihoods import SHORTEST_SHARED, Continuation, log_likelihoods
from multiple_choice import Question, load_questions, question_score

SCRIPT = "step3_principle_engraving/evaluate_multiple_choice.py"
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
    {
        "chosen": "\n\nHuman: Help?\n\nAssistant: Gladly.",
        "rejected": "\n\nHuman: Help?\n\nAssistant: Go away.",
    },
]
PAIR = PAIRS[2]


def read(path, limit=None):
    return load_questions([str(path)], limit)[0]


def write_rows(path, rows):
    """A .json or .jsonl file."""
    ending = path.suffix
    text = json.dumps(rows) if ending == ".json" else "".join(f"{json.dumps(r)}\n" for r in rows)
    path.write_text(text)
    return path


def test_truthfulqa_as_json_and_as_csv(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, PUBLISHED_ROW)
        writer.writeheader()
        writer.writerow(PUBLISHED_ROW)
    single, several = read(write_rows(tmp_path / "a.json", [TRUTHFUL]))
    assert (single.task, single.choices[2], single.labels) == ("mc1", "It has nine.", (1, 0, 0))
    assert (several.task, several.labels) == ("mc2", (1, 1, 0))
    single, several = read(tmp_path / "a.csv")
    assert single.choices == ("Yes, it has.", "No.", "It has nine.")
    assert single.labels == (1, 0, 0)
    assert several.choices == ("Yes, it has.", "One or two.", "No.", "It has nine.")
    assert several.labels == (1, 1, 0, 0)


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_in_their_shapes(row, tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    write_rows(tmp_path / "a.jsonl", [row])
    (tmp_path / "a.json").write_text(json.dumps({"examples": [row]}))
    expected = [Question("pairs", ("Help?",), ("Gladly.", "Go away."), (1, 0), "a")]
    for ending in ("json", "jsonl", "parquet"):
        assert read(tmp_path / f"a.{ending}") == expected


def test_a_dialogue_of_several_turns_and_one_that_differs_early(tmp_path):
    opening = "\n\nHuman: Hi\n\nAssistant: Hello."
    same = [f"{opening}\n\nHuman: Bye\n\nAssistant: {reply}" for reply in ("See you.", "Stay.")]
    other = "\n\nHuman: Hi\n\nAssistant: Go.\n\nHuman: Bye\n\nAssistant: Stay."
    rows = [{"chosen": same[0], "rejected": second} for second in (same[1], other)]
    questions, left_out = load_questions([str(write_rows(tmp_path / "a.jsonl", rows))], None)
    expected = Question("pairs", ("Hi", "Hello.", "Bye"), ("See you.", "Stay."), (1, 0), "a")
    assert questions == [expected]
    assert left_out == {
        f"with dialogues that differ before their last reply in {tmp_path / 'a.jsonl'}": 1
    }


def test_the_category_is_the_rows_or_the_files_own(tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({"name": "Honest", "examples": [PAIR]}))
    write_rows(tmp_path / "helpful.jsonl", [PAIR, {**PAIR, "category": "kind"}])
    names = [str(tmp_path / name) for name in ("task.json", "helpful.jsonl")]
    categories = [question.category for question in load_questions(names, None)[0]]
    assert categories == ["Honest", "helpful", "kind"]


def test_a_data_set_of_several_splits_is_asked_from_its_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / "train.jsonl", [PAIR] * 3)
    write_rows(tmp_path / "set" / "test.jsonl", [{**PAIR, "prompt": "Held out?"}])
    assert [question.turns for question in read(tmp_path / "set")] == [("Held out?",)]


EMPTY = "holds no question to ask (1 with an empty choice)"
NO_QUESTION = "a.jsonl, row 2: not a multiple-choice question"
BAD_FILES = {
    "no targets": (
        "a.jsonl",
        [PAIR, {"question": "?"}],
        f"{NO_QUESTION} (no 'target_scores' beside question)",
    ),
    "no rejected": (
        "a.jsonl",
        [PAIR, {"prompt": "?", "chosen": "Y"}],
        f"{NO_QUESTION} (no 'rejected' beside",
    ),
    "no wrong one": ("a.jsonl", [PAIR, {"input": "?", "target_scores": {"A": 1}}], NO_QUESTION),
    "labels too few": (
        "a.jsonl",
        [PAIR, {"input": "?", "targets": {"choices": ["A"], "labels": [1, 0]}}],
        NO_QUESTION,
    ),
    "label NaN": (
        "a.jsonl",
        [PAIR, {"input": "?", "target_scores": {"A": math.nan, "B": 0}}],
        NO_QUESTION,
    ),
    "a number for a text": ("a.jsonl", [PAIR, {**PAIR, "rejected": 9}], f"{NO_QUESTION} (9 is no"),
    "a text for a row": ("a.jsonl", [PAIR, "text"], NO_QUESTION),
    "another dialogue": ("a.jsonl", [PAIR, {"chosen": "A: hi", "rejected": "B"}], NO_QUESTION),
    "empty choice": ("a.jsonl", [{**PAIR, "rejected": " \n"}], EMPTY),
    "NaN for a choice": ("a.json", [{**PAIR, "chosen": math.nan}], EMPTY),
    "no rows": ("a.jsonl", [], "holds no question to ask (no rows)"),
    "torn": ("a.jsonl", json.dumps(PAIR).encode() + b'\n{"prom', "a.jsonl, row 2: not valid JSON"),
    "pointer": ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid", "`git lfs pull`"),
    "pointer, parquet": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\no", "git lfs"),
    "parquet": ("a.parquet", b"PAR1", "is not a readable parquet file"),
    "UTF-16": ("a.json", "[]".encode("utf-16"), "a.json is not UTF-8 text (byte 0)"),
    "an object": ("a.json", b'{"rows": []}', "must hold one JSON array of rows, or an object"),
    "missing": ("none.csv", None, "no file '"),
    "another kind": ("a.txt", b"", "is neither a .json, .jsonl, .parquet, .csv file nor NAME"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_question_files_are_named(case, tmp_path, run_main):
    """Before a model is looked for: these don't exist."""
    name, content, message = BAD_FILES[case]
    if isinstance(content, list):
        write_rows(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    flags = ("--base_model", "x/none", "--engraved_model", "y/none")
    output = tmp_path / "out.json"
    output.write_text("earlier")
    with pytest.raises(UserError) as error:
        run_main(
            evaluate_multiple_choice,
            *(*flags, "--data_files", tmp_path / name, "--output_file", output),
        )
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert output.read_text() == "earlier"


BAD_FLAGS = {
    ("--shots", "3"): "unrecognized arguments: --shots 3",
    ("--adapter_dir", "run"): "one of --engraved_model and --adapter_dir is needed, not both",
    ("--limit", "0"): "--batch_size and --limit must be 1 or more",
    ("--seed", "-1"): "--seed 0 or more",
    ("--data_files", ","): "--data_files names no file",
    ("--output_file", "none/a.json"): "no folder 'none'",
}


@pytest.mark.parametrize("flags", BAD_FLAGS, ids=" ".join)
def test_bad_flags_are_named(flags, run_main, capsys):
    given = ("--base_model", "x", "--engraved_model", "y", "--output_file", "o", "--data_files")
    with pytest.raises(SystemExit) as end:
        run_main(evaluate_multiple_choice, *given, "a.csv", *flags)
    assert end.value.code == 2
    assert BAD_FLAGS[flags] in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_code_2(run_script, tmp_path):
    given = ("--base_model", "x", "--engraved_model", "y", "--output_file", tmp_path / "out.json")
    done = run_script(SCRIPT, *given, "--data_files", "none.csv")
    assert (done.returncode, done.stderr) == (2, "error: no file 'none.csv'\n")


def test_questions_as_editors_and_tables_leave_them(tmp_path):
    """A byte-order mark, blank lines, line separators inside a text, CRLF, quoted line breaks."""
    odd = {**PAIR, "prompt": "One\u2028two\x85three?"}
    lines = f"\n{json.dumps(odd, ensure_ascii=False)}\r\n \n{json.dumps(PAIR)}"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8-sig", newline="")
    (tmp_path / "a.json").write_text(json.dumps([odd]), encoding="utf-8-sig")
    table = 'prompt,chosen,rejected\r\n"One\u2028two\x85three\nfour?",Yes.,No.\r\n'
    (tmp_path / "a.csv").write_text(table, encoding="utf-8-sig", newline="")
    assert [question.turns[0] for question in read(tmp_path / "a.jsonl")] == [
        "One\u2028two\x85three?",
        "Help?",
    ]
    assert read(tmp_path / "a.json")[0].turns == ("One\u2028two\x85three?",)
    assert read(tmp_path / "a.csv")[0].turns == ("One\u2028two\x85three\nfour?",)


def test_empty_choices_are_left_out_and_counted(tmp_path):
    """They scored 0.0, the highest log-likelihood that there is, and won every time."""
    rows = [PAIR, {**PAIR, "rejected": ""}, {**PAIR, "rejected": " \n"}, {**PAIR, "prompt": None}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    questions, left_out = load_questions([str(path)], None)
    assert len(questions) == 1
    assert left_out == {
        f"with an empty choice in {path}": 2,
        f"with an empty question in {path}": 1,
    }


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("beginning", ["", "A camel has one hump or two. " * SHORTEST_SHARED])
def test_every_choice_gets_its_own_log_likelihood(random_model, batch_size, beginning):
    """A known implementation scored only the first half; neither padding nor a common beginning
    that is run once may move a score.
    """
    model = load_base_model(str(random_model)).eval()
    encoder = DialogueTokenizer(load_tokenizer(str(random_model)))
    choices = ("Yes, it has.", "No.", "It has nine, and more than that.")
    prompts = [beginning + "Has a camel a hump?\n" * repeats for repeats in (1, 2, 3)]
    rows = [
        Continuation(encoder.encode_start(prompt), encoder.encode_continuation(choice))
        for prompt in prompts
        for choice in choices
    ]
    scores = log_likelihoods(model, rows, batch_size)
    for row, score in zip(rows, scores, strict=True):
        ids = row.prompt + row.text
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        steps = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert score == pytest.approx(steps[len(row.prompt) - 1 :].sum().item(), abs=1e-3)


def test_dialogues_are_what_their_models_know(talking_model):
    """The engraved one is what the exported chat template renders, the other the prompt's own."""
    tokenizer = load_tokenizer(str(talking_model))
    encoder = DialogueTokenizer(tokenizer)
    turns = ["Hi", "Hello.", "Bye", "See you.", "Rain?"]
    roles = ["user", "assistant"] * 3
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    system = choose_meta_prompt(DEFAULT_META_PROMPTS, "standard")
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert EngravedDialogue(system).encode(encoder, turns) == expected
    dialogue = PrinciplesDialogue("Be good.\n\nUser:")
    ids = dialogue.encode(encoder, turns[:3]) + dialogue.encode_reply(encoder, "Fine.")
    assert tokenizer.decode(ids, skip_special_tokens=True) == (
        "Be good.\n\nUser: Hi\n\nWatson: Hello.\n\nUser: Bye\n\nWatson: Fine."
    )


def test_scores_of_the_tasks():
    single = Question("mc1", ("?",), ("a", "b", "c"), (0, 1, 0))
    assert question_score(single, [-3.0, -2.0, -2.5]) == 1.0
    assert question_score(single, [-3.0, -2.0, -1.5]) == 0.0
    assert question_score(single, [-2.0, -2.0, -3.0]) == 0.0  # a tie is no success
    several = Question("mc2", ("?",), ("a", "b", "c"), (1, 0, 1))
    likelihoods = [math.log(share) - 1000 for share in (0.1, 0.3, 0.2)]
    assert question_score(several, likelihoods) == pytest.approx(0.5)


def test_wilson_interval_against_known_values():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_bootstrap_interval_of_real_values():
    """The interval of a mean: as wide as the normal approximation says, and centred on the mean.
    Only real values tell one seed from another.
    """
    values = numpy.random.default_rng(5).gamma(2.0, 3.0, size=400)
    interval = bootstrap_interval(values, seed=1)
    assert interval == bootstrap_interval(values, seed=1)
    assert interval != bootstrap_interval(values, seed=2)
    spread = 1.96 * values.std() / math.sqrt(len(values))
    expected = (values.mean() - spread, values.mean() + spread)
    assert interval == pytest.approx(expected, abs=0.1 * spread)


@pytest.fixture(scope="module")
def question_files(tmp_path_factory):
    """Files in which one reply, known by heart to the talking model, is right each time."""
    folder = tmp_path_factory.mktemp("questions")
    wrong = ["I am rain.", "I am a camel.", "Nine."]
    row = {"choices": [*wrong[:2], "I am Dromedary.", wrong[2]], "labels": [0, 0, 1, 0]}
    rows = [{"question": "Who are you?", "mc1_targets": row, "mc2_targets": row}]
    pair = {"prompt": "Who are you?", "chosen": "I am Dromedary.", "rejected": wrong[0]}
    reverse = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"], "category": "other"}
    return ",".join(
        str(write_rows(folder / name, content))
        for name, content in {
            "truthful.json": rows * 5,
            "pairs.jsonl": [{**pair, "rejected": ""}] + [pair] * 2 + [reverse],
        }.items()
    )


def test_models_side_by_side(
    run_main, random_model, talking_model, question_files, tmp_path, capsys, caplog
):
    """The engraved model knows one reply by heart, so it prefers it; the base has no idea."""
    principles = tmp_path / "principles.txt"
    principles.write_text("Watson is honest.\n" * 20 + "User: Hi\n\nWatson: Hello.\n\nUser:\n")
    code = run_main(
        evaluate_multiple_choice,
        *("--base_model", random_model, "--engraved_model", talking_model),
        *("--principle_prompt_file", principles, "--data_files", question_files),
        *("--output_file", tmp_path / "result.json", "--limit", 3),
    )
    assert code == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        *("MC1", "MC2", "pairs", "other", "pairs")
    ]
    assert all(name in table for name in ("base + principles", "engraved", "difference"))
    assert "left out: 1 with an empty choice in " in caplog.text
    content = json.loads((tmp_path / "result.json").read_text())
    for task in ("mc1", "mc2"):
        result = content["results"][task]
        assert result["questions"] == 3
        assert result["engraved"]["score"] > 0.99
        low, high = result["engraved"]["interval"]
        assert 0 < low <= high <= 1.0
        gain = result["engraved"]["score"] - result["base"]["score"]
        assert result["difference"]["score"] == pytest.approx(gain)
    pairs = content["results"]["pairs"]
    assert pairs["engraved"]["score"] == pytest.approx(2 / 3)
    assert {name: part["engraved"]["score"] for name, part in pairs["categories"].items()} == {
        "pairs": 1.0,
        "other": 0.0,
    }
    assert sum(content["left_out"].values()) == 1
    question = content["questions"][0]
    for side in ("base", "base_with_principles", "engraved"):
        assert len(question[f"{side}_log_likelihoods"]) == 4


def test_base_and_adapter_in_place_of_an_export(
    run_main, random_model, talking_run, question_files, tmp_path
):
    code = run_main(
        evaluate_multiple_choice,
        *("--base_model", random_model, "--adapter_dir", talking_run, "--device_map", "auto"),
        *("--data_files", question_files, "--output_file", tmp_path / "result.json"),
    )
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())["results"]["mc1"]
    assert result["engraved"]["score"] == 1.0


def test_questions_longer_than_the_context_are_left_out(
    run_main, random_model, talking_model, tmp_path, caplog
):
    path = write_rows(tmp_path / "a.jsonl", [PAIR, {**PAIR, "prompt": "camel " * 2000}])
    flags = ("--base_model", random_model, "--engraved_model", talking_model)
    files = ("--data_files", path, "--output_file", tmp_path / "out.json")
    assert run_main(evaluate_multiple_choice, *flags, *files) == 0
    assert "left out: 1 longer than a model's context" in caplog.text
    path.write_text(json.dumps({**PAIR, "prompt": "camel " * 2000}))
    with pytest.raises(UserError, match=r"no question fits the models' context \(1,024 tokens\)"):
        run_main(evaluate_multiple_choice, *flags, *files)


def test_a_model_without_numbers_is_no_result(run_main, random_model, talking_model, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(talking_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    path = write_rows(tmp_path / "a.jsonl", [PAIR])
    with pytest.raises(UserError, match="the engraved model gives log-likelihoods that are no num"):
        run_main(
            evaluate_multiple_choice,
            *("--base_model", random_model, "--engraved_model", broken, "--data_files", path),
            *("--output_file", tmp_path / "out.json"),
        )
    assert not (tmp_path / "out.json").exists()
