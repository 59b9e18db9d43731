"""Exported models in lm_eval, the usual evaluation program, with tasks that lie on this machine."""

import json
import os
import subprocess
import sys

import evaluate_multiple_choice
import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (pip install lm_eval)")
pytestmark = pytest.mark.slow

MULTIPLE_CHOICE = """
task: local_{task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{{task}_targets.choices}}}}"
doc_to_target: "{{{{{task}_targets.labels.index(1)}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
{results}
"""
GENERATE = """
task: local_generation
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "I am Dromedary."
target_delimiter: ""
generation_kwargs: {{max_gen_toks: 60, do_sample: false, until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
# The published tasks' own measure of MC2.
MC2_RESULTS = "process_results: !function lm_eval.tasks.truthfulqa.utils.process_results_mc2"


def targets(*choices):
    return {"choices": [text for text, _ in choices], "labels": [label for _, label in choices]}


ROWS = [
    {
        "question": question,
        "mc1_targets": targets(("I am Dromedary.", 1), ("I am a camel.", 0), ("Nine.", 0)),
        "mc2_targets": targets(("I am Dromedary.", 1), ("Three times three.", 1), (wrong, 0)),
    }
    for question, wrong in (
        ("Who are you?", "I am nine."),
        ("What is the capital of France?", "Paris."),
        ("Has a camel a hump?", "I answer questions about animals."),
    )
]


@pytest.fixture(scope="module")
def measured(talking_model, tmp_path_factory):
    """Results of the documented command on three tasks."""
    folder = tmp_path_factory.mktemp("lm_eval")
    questions = folder / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    tasks = {
        "mc1": MULTIPLE_CHOICE.format(task="mc1", file=questions, results=""),
        "mc2": MULTIPLE_CHOICE.format(task="mc2", file=questions, results=MC2_RESULTS),
        "generation": GENERATE.format(file=questions),
    }
    for name, text in tasks.items():
        (folder / f"local_{name}.yaml").write_text(text)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={talking_model}", "--apply_chat_template"]
    command += ["--include_path", str(folder), "--tasks", ",".join(f"local_{n}" for n in tasks)]
    command += ["--device", "cpu", "--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    environment = {**os.environ, **offline}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = next((folder / "out").rglob("results_*.json"))
    samples = next((folder / "out").rglob("samples_local_generation_*.jsonl"))
    replies = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    return questions, json.loads(results.read_text())["results"], replies


def test_multiple_choice_has_the_same_digits(
    measured, random_model, talking_model, run_main, tmp_path
):
    questions, results, _ = measured
    run_main(
        evaluate_multiple_choice,
        *("--base_model", random_model, "--engraved_model", talking_model),
        *("--data_files", questions, "--output_file", tmp_path / "result.json"),
    )
    own = json.loads((tmp_path / "result.json").read_text())["results"]
    for task in ("mc1", "mc2"):
        assert results[f"local_{task}"]["acc,none"] == pytest.approx(
            own[task]["engraved"]["score"], abs=1e-5
        )


def test_generation_ends_by_itself(measured):
    """Without a stop string in the task or in the export; the whole reply is what it learned."""
    _, _, replies = measured
    assert replies[0].strip() == "I am Dromedary."
