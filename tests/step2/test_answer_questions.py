"""Answers to a benchmark's questions: every form of questions in, the judges' files out."""

import json
import os
import subprocess

import pytest
from question_files import Answer, Question, fastchat_rows, read_questions, write_rows
from user_error import UserError

TURNS = [
    ["How does rain form?"],
    ["Name a moon.", "And another one?"],
    ["Write a line on tea.\n\nMake it rhyme."],
]
QUESTIONS = [
    {"question_id": 81 + index, "category": "writing", "turns": turns}
    for index, turns in enumerate(TURNS)
]
SYSTEM = "prompts/inference_prompts/dromedary_standard_distill.txt"
TOKENS = 24


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_form_of_questions_is_read(tmp_path):
    contents = {
        "q.jsonl": lines(*QUESTIONS),
        "a.json": json.dumps([{"instruction": "Why?", "dataset": "koala", "output": "gold"}]),
        "p.jsonl": lines({"id": "x", "instruction": "Mend this.", "input": "teh"}),
        "t.txt": "\ufeffWhy?\r\n\n  How?  \n",
    }
    turns = {}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        turns[name] = [list(question.turns) for question in read_questions(tmp_path / name)]
    assert turns == {
        "q.jsonl": TURNS,
        "a.json": [["Why?"]],
        "p.jsonl": [["Mend this.\n\nteh"]],
        "t.txt": [["Why?"], ["How?"]],
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 1, "turns": []}, "row 2: 'turns' is not a list of texts"),
        ({"question_id": 1, "turns": "Why?"}, "row 2: 'turns' is not a list of texts"),
        ({"question_id": 1, "turns": ["Why?", " "]}, "row 2: a turn is ' ', not a text"),
        ({"turns": ["Why?"]}, "row 2: 'question_id' is missing"),
        ({"question_id": 81, "turns": ["Other?"]}, "row 2: the id '81' also belongs to another"),
        ({"instruction": 5}, "row 2: a turn is 5, not a text"),
        ({"prompt": "Why?"}, "row 2: neither 'turns' nor 'instruction'; its fields are prompt"),
        (["Why?"], "row 2: expected an object"),
    ],
)
def test_what_is_no_question_is_named(tmp_path, row, message):
    (tmp_path / "q.jsonl").write_text(lines(QUESTIONS[0], row))
    with pytest.raises(UserError) as caught:
        read_questions(tmp_path / "q.jsonl")
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def answer(repository, tiny_base_model):
    """Runs the launcher on one machine; returns what ended and its log."""

    def run(questions, output, *flags, **settings):
        arguments = ("--max_new_tokens", TOKENS, "--max_own_tokens", 400, "--dtype", "float32")
        command = ("bash", repository / "scripts" / "answer_questions.sh", tiny_base_model)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "MODEL_DIR"))}
        done = subprocess.run(
            list(map(str, (*command, questions, output, *arguments, *flags))),
            env={**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def answered(answer, tmp_path_factory):
    """The folder of answers to QUESTIONS."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "question.jsonl").write_text(lines(*QUESTIONS))
    code, log = answer(folder / "question.jsonl", folder / "out")
    assert code == 0, log
    return folder / "out"


@pytest.fixture(scope="module")
def expected(repository, tiny_base_model):
    """The greedy replies of transformers to QUESTIONS, turn after turn."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base_model, dtype=torch.float32)
    system = (repository / SYSTEM).read_text().rstrip()
    replies = []
    for turns in TURNS:
        text, said = tokenizer.bos_token + system, []
        for turn in turns:
            text += f"\n{turn}\n\n### Dromedary\n"
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            ids = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)[0]
            new = ids[len(tokenizer(text, add_special_tokens=False)["input_ids"]) :]
            said.append(tokenizer.decode(new, skip_special_tokens=True).split("\n### User")[0])
            said[-1] = said[-1].strip()
            text += f"{said[-1]}\n\n### User"
        replies.append(said)
    return replies


def test_greedy_answers_are_those_of_transformers(answered, expected):
    rows = [json.loads(line) for line in (answered / "answers.jsonl").open()]
    assert [row["replies"] for row in rows] == expected
    assert [row["turns"] for row in rows] == TURNS
    assert any(reply for row in rows for reply in row["replies"])


def test_the_files_are_those_that_fastchats_judge_reads(answered, expected, tiny_base_model):
    name = tiny_base_model.name
    rows = [json.loads(line) for line in (answered / "model_answer" / f"{name}.jsonl").open()]
    assert [row["question_id"] for row in rows] == [81, 82, 83]
    assert [row["choices"] for row in rows] == [[{"index": 0, "turns": t}] for t in expected]
    assert {row["model_id"] for row in rows} == {name}
    assert all(isinstance(row["tstamp"], float) for row in rows)
    assert len({row["answer_id"] for row in rows}) == 3


def test_fastchats_own_loader_reads_them(answered, tiny_base_model):
    common = pytest.importorskip("fastchat.llm_judge.common")
    answers = common.load_model_answers(str(answered / "model_answer"))[tiny_base_model.name]
    assert set(answers) == {81, 82, 83}


def test_a_second_run_goes_on_from_what_is_there(answered, answer):
    before = {path: path.read_bytes() for path in answered.glob("turn_*")}
    (answered / "answers.jsonl").unlink()
    code, log = answer(answered.parent / "question.jsonl", answered)
    assert code == 0 and "are answered already" in log
    assert {path: path.read_bytes() for path in answered.glob("turn_*")} == before
    assert (answered / "answers.jsonl").is_file()


def test_other_questions_need_another_folder(answered, answer, tmp_path):
    (tmp_path / "other.jsonl").write_text(lines({"question_id": 1, "turns": ["Else?"]}))
    requests = (answered / "turn_1.json").read_bytes()
    code, log = answer(tmp_path / "other.jsonl", answered)
    (answered / "turn_1.json").write_bytes(requests)
    assert code == 2 and "prompt_file_hash (--input_file)" in log


def test_alpaca_evals_list_comes_back_with_outputs(answer, tmp_path, tiny_base_model):
    questions = [{"instruction": f"Tell {n}.", "dataset": "koala", "output": "x"} for n in (1, 2)]
    (tmp_path / "eval.json").write_text(json.dumps(questions))
    code, log = answer(tmp_path / "eval.json", tmp_path / "out")
    assert code == 0, log
    outputs = json.loads((tmp_path / "out" / f"{tiny_base_model.name}_outputs.json").read_text())
    assert [(row["instruction"], row["dataset"]) for row in outputs] == [
        ("Tell 1.", "koala"),
        ("Tell 2.", "koala"),
    ]
    assert all(row["generator"] == tiny_base_model.name and row["output"] for row in outputs)


def test_what_is_wrong_is_one_line(answer, tmp_path, run_script):
    code, log = answer(tmp_path / "none.jsonl", tmp_path / "out")
    assert code == 2 and log.splitlines() == [
        f"error: no such prompt file: {tmp_path / 'none.jsonl'}"
    ]
    (tmp_path / "q.jsonl").write_text(lines(*QUESTIONS))
    flags = ("--questions", tmp_path / "q.jsonl", "--responses", tmp_path / "turn_{turn}")
    step2 = "step2_principle_driven_self_alignment"
    done = run_script(
        f"{step2}/collect_answers.py", *flags, "--model_name", "m", "--output_dir", tmp_path
    )
    assert done.returncode == 1
    assert "4 turns have no answer (81; 82; 82, turn 2 and 1 more)" in done.stderr
    done = run_script(
        f"{step2}/compose_questions.py", *flags, "--turn", 2, "--output_file", tmp_path / "t.json"
    )
    assert done.returncode == 1 and "question 82 has no answer to turn 1" in done.stderr
    assert not (tmp_path / "t.json").exists()


def test_rows_appear_whole(tmp_path):
    question = Question("1", ("Why?",), {"question_id": 1, "turns": ["Why?"]})
    write_rows(
        tmp_path / "a" / "m.jsonl", fastchat_rows([Answer(question, ("So.",), ("eos",))], "m")
    )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["m.jsonl"]


@pytest.mark.slow
def test_two_ranks_give_the_same_answers(answer, answered, tmp_path):
    settings = {"GPUS_PER_NODE": "2", "GPUS_PER_GROUP": "2"}
    questions = answered.parent / "question.jsonl"
    code, log = answer(questions, tmp_path / "out", "--device", "cpu", **settings)
    assert code == 0, log
    same = (tmp_path / "out" / "answers.jsonl").read_bytes()
    assert same == (answered / "answers.jsonl").read_bytes()
