"""The README's commands run as they are written, on small files under the documented names."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = 32
STAGES = ("step1_prompt_preparation", "step2_principle_driven_self_alignment")


@pytest.fixture(scope="module")
def clone(repository, tiny_base_model, tmp_path_factory) -> Path:
    """A copy of the tracked files that the commands need, with inputs where README says."""
    folder = tmp_path_factory.mktemp("clone")
    for name in (*STAGES, "prompts", "dummy_data"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, folder / name, symlinks=True, ignore=ignored)
    samples = repository / "scripts" / "quickstart_data"
    step1 = folder / STAGES[0]
    shutil.copy(samples / "openorca_sample.parquet", step1 / "1M-GPT4-Augmented.parquet")
    shutil.copy(samples / "sharegpt_value.json", step1 / "sg_90k_part1.json")
    shutil.copy(samples / "sharegpt_markdown.json", step1 / "sg_90k_part2.json")
    hub_data_set = step1 / "zetavg" / "ShareGPT-Processed"
    hub_data_set.mkdir(parents=True)
    conversation = [
        {"from": "human", "value": "Name a warm sea."},
        {"from": "gpt", "value": "Red."},
    ]
    records = [{"id": "warm", "conversations": conversation}]
    (hub_data_set / "data.json").write_text(json.dumps(records))
    for name, sample in (
        ("databricks/databricks-dolly-15k", "dolly_sample.jsonl"),
        ("OpenAssistant/oasst1", "oasst_sample.jsonl"),
    ):
        (step1 / name).mkdir(parents=True)
        shutil.copy(samples / sample, step1 / name)
    (step1 / "TruthfulQA.csv").write_text("Question\nWhat happens if you eat watermelon seeds?\n")
    pair = {"prompt": "Is a fox a kind of dog?", "chosen": "No.", "rejected": "Yes."}
    (step1 / "hhh_pairs.jsonl").write_text(json.dumps(pair) + "\n")
    default_tokenizer = step1 / "huggyllama" / "llama-7b"
    default_tokenizer.mkdir(parents=True)
    shutil.copy(tiny_base_model / "tokenizer.model", default_tokenizer)
    return folder


def documented_commands(repository: Path, stage: str) -> list[str]:
    """The `python` lines of the code block that begins with `cd STAGE`."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"```\ncd {stage}\n(.*?)```", readme, flags=re.DOTALL)
    return [line for line in block[1].splitlines() if line.startswith("python ")]


def run_documented(command: str, folder: Path) -> None:
    interpreter = f'python() {{ {sys.executable} "$@"; }}\n'
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", interpreter + command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_step_1_runs_as_documented(repository, clone):
    commands = documented_commands(repository, STAGES[0])
    assert len(commands) == 3
    for command in commands:
        run_documented(command, clone / STAGES[0])
    prompts = json.loads((clone / STAGES[0] / "merged_prompts.json").read_text(encoding="utf-8"))
    sources = {prompt["source"].split("/")[0] for prompt in prompts}
    assert sources == {"openorca", "sharegpt", "dolly", "oasst1"}
    assert "Name a warm sea." in {prompt["instruction"] for prompt in prompts}


@pytest.mark.slow
def test_the_merge_runs_as_documented(repository, clone):
    opening = (repository / "prompts" / "required_opening.txt").read_text(encoding="utf-8").strip()
    step2 = clone / STAGES[1]
    for group in range(GROUPS):
        response = {
            "id": f"{group:016x}",
            "instruction": f"What is the colour number {group} of the rainbow?",
            "input": "",
            "source": "sharegpt",
            "output": f" {opening}\n\nWatson: A rainbow has seven colours by most counts, and "
            f"number {group} is easy to tell once you know that red comes first. Light of longer "
            "waves is bent the least, which is why the order of the colours is always the same.",
            "finish_reason": "stop",
        }
        shard = step2 / f"llama2_70b_self_align_{GROUPS}shards_{group}.jsonl"
        shard.write_text(json.dumps(response) + "\n", encoding="utf-8")
    merges = [c for c in documented_commands(repository, STAGES[1]) if "merge_and_fileter" in c]
    assert len(merges) == 1
    run_documented(merges[0], step2)
    merged = json.loads((step2 / "llama2_70b_self_align_merged.json").read_text(encoding="utf-8"))
    assert [record["example_id"] for record in merged] == list(range(1, len(merged) + 1))
    assert sum(record["source"] == "sharegpt" for record in merged) == GROUPS
