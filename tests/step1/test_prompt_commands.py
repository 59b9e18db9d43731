"""The documented command lines, run as a user runs them, with and without what they need."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import prompt_sources
import pytest
import subsample_openorca_prompts
from command_line import DEFAULT_TOKENIZER
from prompt_sources import PromptSource, read_column_batches, read_rows

COMMANDS = (
    "subsample_openorca_prompts.py --train_data_path 1M-GPT4-Augmented.parquet "
    "--output_path openorca_prompts.json",
    "aggregate_sharegpt_prompts.py --data_files=sharegpt_folder,sg_90k_part1.json,"
    "sg_90k_part2.json --output_path sharegpt_prompts.json",
    "clean_and_merge_prompts.py --sharegpt_prompt_path sharegpt_prompts.json "
    "--openorca_prompt_path openorca_prompts.json --output_file merged_prompts.json",
)
QUICKSTART_FILES = {
    "openorca_sample.parquet": "1M-GPT4-Augmented.parquet",
    "sharegpt_value.json": "sg_90k_part1.json",
    "sharegpt_markdown.json": "sg_90k_part2.json",
}


@pytest.fixture
def workplace(repository, tmp_path):
    """A folder with the scripts and, under the names of the documentation, small inputs."""
    stage = repository / "step1_prompt_preparation"
    for file in (*stage.glob("*.py"), *stage.glob("*.jinja")):
        shutil.copy(file, tmp_path)
    for name, documented in QUICKSTART_FILES.items():
        shutil.copy(repository / "scripts" / "quickstart_data" / name, tmp_path / documented)
    (tmp_path / "sharegpt_folder").mkdir()
    shutil.copy(tmp_path / "sg_90k_part1.json", tmp_path / "sharegpt_folder")
    return tmp_path


@pytest.fixture
def hub_cache(tokenizer, tmp_path):
    """A folder in which the default tokenizer lies as the Hub's client leaves it."""
    repository = tmp_path / "hub" / f"models--{DEFAULT_TOKENIZER.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    shutil.copy(tokenizer, repository / "snapshots" / ("0" * 40) / "tokenizer.model")
    return tmp_path / "hub"


def run_command(command: str, folder, one_thread: bool = False, **environment: str):
    """`python COMMAND` in the folder; on one core if wished."""
    script, *arguments = command.split()
    core = {min(os.sched_getaffinity(0))}
    threads = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "ARROW_IO_THREADS")
    environment |= dict.fromkeys(threads, "1") if one_thread else {}
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        preexec_fn=(lambda: os.sched_setaffinity(0, core)) if one_thread else None,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_documented_commands_run_as_written(workplace, hub_cache):
    """The tokenizer comes from the Hub's cache; one thread or several give the same bytes."""
    outputs = []
    for one_thread in (False, True):
        for command in COMMANDS:
            ended = run_command(command, workplace, one_thread, HF_HUB_CACHE=str(hub_cache))
            assert ended.returncode == 0, ended.stderr
        outputs.append({path.name: path.read_bytes() for path in workplace.glob("*_prompts*.json")})
    assert len(outputs[0]) == 6  # each with a report beside it
    assert outputs[0] == outputs[1]
    records = json.loads(outputs[0]["merged_prompts.json"])
    report = json.loads(outputs[0]["merged_prompts.report.json"])
    drawn = sum(
        len(json.loads(outputs[0][name]))
        for name in ("openorca_prompts.json", "sharegpt_prompts.json")
    )
    assert report["read"]["total"] == drawn
    assert set(report["dropped"]["by_reason"]) <= {"near_duplicate"}
    assert drawn - 3 <= len(records) <= drawn
    for record in records:
        content = f"{record['instruction']}\0{record['input']}".encode()
        assert record["id"] == hashlib.sha256(content).hexdigest()[:16]
        assert not re.search(r"Share Prompt|번역하기|\d / \d\s*$", record["instruction"])


@pytest.mark.slow
def test_without_a_network_the_flag_for_a_local_file_is_named(workplace, tmp_path):
    nowhere = {"HF_HUB_CACHE": str(tmp_path / "empty_cache")}
    ended = run_command(COMMANDS[0], workplace, **nowhere)
    assert ended.returncode == 1
    assert "--tokenizer_name also takes a local tokenizer.model" in ended.stderr
    command = COMMANDS[1].replace("sharegpt_folder", "zetavg/ShareGPT-Processed")
    ended = run_command(command, workplace, **nowhere)
    assert ended.returncode == 1
    assert "zetavg/ShareGPT-Processed: no such local file" in ended.stderr
    assert "--data_files also takes a local .json, .jsonl or .parquet file" in ended.stderr
    assert not list(workplace.glob("*_prompts*.json"))


def test_help_tells_defaults(run_stage):
    ended = run_stage(subsample_openorca_prompts, "--help")
    assert ended.code == 0
    assert "(default: 10000)" in ended.out and "(default: 256)" in ended.out


@pytest.fixture
def hub_data_set(monkeypatch):
    """Makes a local parquet file appear as a data set of the Hub; the reading is the real one."""

    import datasets  # slow to import

    def appear(path):
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        monkeypatch.setattr(prompt_sources, "_open_hub", lambda name, every_split: iter([rows]))
        return PromptSource("some/name", None, "--data_files")

    return appear


@pytest.mark.slow
def test_hub_data_sets_are_read_like_files(hub_data_set, write_openorca):
    source = hub_data_set(write_openorca([(f"niv.{n}", f"Is {n} odd?") for n in range(25)]))
    batches = list(read_column_batches(source, ("id", "question"), 10))
    assert [batch.num_rows for batch in batches] == [10, 10, 5]
    assert batches[2].to_pylist()[-1] == {"id": "niv.24", "question": "Is 24 odd?"}
    number, row = list(read_rows(source))[-1]
    assert (number, row["question"]) == (25, "Is 24 odd?")
    with pytest.raises(prompt_sources.InputError, match="no column 'text'; it has id, sys"):
        next(read_column_batches(source, ("text",), 10))


@pytest.mark.slow
def test_real_data_gives_sensible_counts(workplace, shared_data):
    raw, tokenizer = shared_data / "raw", shared_data / "tokenizers" / "llama2_tokenizer.model"
    shutil.copy(raw / "openorca_sample.parquet", workplace / "1M-GPT4-Augmented.parquet")
    shutil.copy(raw / "sharegpt_sample.json", workplace / "sg_90k_part1.json")
    shutil.copy(raw / "sharegpt_sample.json", workplace / "sg_90k_part2.json")
    with_tokenizer = f" --tokenizer_name {tokenizer}"
    more = (
        f" --dolly_data {raw}/dolly_sample.jsonl --oasst_data {raw}/oasst_sample.jsonl"
        f" --decontaminate_against {raw}/vicuna_bench_question.jsonl"
    )
    for command in (COMMANDS[0] + with_tokenizer, COMMANDS[1], COMMANDS[2] + with_tokenizer + more):
        ended = run_command(command.replace("sharegpt_folder,", ""), workplace)
        assert ended.returncode == 0, ended.stderr
    kept = json.loads((workplace / "merged_prompts.report.json").read_text())["kept"]["by_source"]
    assert 2700 < kept["dolly"] < 2819 and 250 < kept["sharegpt"] < 301
    assert 90 < kept["oasst1"] <= 100 and kept["openorca/flan"] == 54
