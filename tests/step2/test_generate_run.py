"""The generator as a whole: real model, real processes, kills, drains, groups and ranks.

The trained tiny model answers behind a short principle prompt, in fp32, so that its responses are
the same tokens whatever the batch, the groups or the interruptions were.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import generate_self_align_response as script
import pytest
from response_shards import ResponseReader, find_shards, run_name, shard_path, status_path
from user_error import run_script as run_main

SCRIPT = "step2_principle_driven_self_alignment/generate_self_align_response.py"
MERGE = "step2_principle_driven_self_alignment/merge_and_filter_self_align_with_dummy.py"
KILLS = int(os.environ.get("SELF_ALIGN_KILLS", "4"))  # more by hand
PROMPTS = 24 if KILLS <= 4 else 8 * KILLS


@pytest.fixture(scope="module")
def base_model(tiny_base_model):
    if not (tiny_base_model / "model.safetensors").is_file():
        pytest.skip(f"the tiny base model is not there: {tiny_base_model}")
    return tiny_base_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, repository):
    """A folder with a prompt file and a short principle prompt: the end of the real one."""
    folder = tmp_path_factory.mktemp("inputs")
    topics = ("tea", "rain", "bread", "glass", "music", "salt", "maps", "bees")
    records = [
        {"instruction": f"Tell me about {topic} number {index}.", "input": "", "source": topic}
        for index, topic in enumerate(topics * (PROMPTS // len(topics)))
    ]
    (folder / "prompts.json").write_text(json.dumps(records))
    random.Random(3).shuffle(records)
    (folder / "shuffled.jsonl").write_text("\n".join(map(json.dumps, records)))
    whole = (repository / "prompts" / "watson_self_align_prompt.txt").read_text()
    turns = whole.split("\n\nUser: ")
    (folder / "short_prompt.txt").write_text("\n\nUser: ".join(["# Watson", *turns[-4:]]))
    return folder


@pytest.fixture
def arguments(base_model, inputs, tmp_path):
    """The command line of a run in tmp_path."""
    return [
        *("--model_dir", str(base_model), "--input_file", str(inputs / "prompts.json")),
        *("--prompt_file", str(inputs / "short_prompt.txt")),
        *("--output_file", str(tmp_path / "out" / "run.jsonl")),
        *("--dtype", "float32", "--device", "cpu", "--max_new_tokens", "96"),
    ]


@pytest.fixture
def generate(monkeypatch):
    """Runs the script's main in this process, which has torch loaded already."""
    handlers = {number: signal.getsignal(number) for number in (15, 10, 12)}

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, flags)])
        return run_main(script.main, script.logger.error)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start(repository, flags, processes=1, env=None):
    """Starts the script as users do; with several processes, as torchrun does."""
    command = [sys.executable, str(repository / SCRIPT), *map(str, flags)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        command = [sys.executable, *launcher, str(processes), *command[1:]]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})},
    )


def responses(output_file):
    """Every response of a run by id; fails where a prompt is answered twice."""
    reader = ResponseReader(find_shards(run_name(output_file)))
    rows = {row["id"]: row for row in reader.read()}
    assert reader.repeated == 0
    return rows


@pytest.fixture(scope="module")
def reference(base_model, inputs, tmp_path_factory):
    """All responses of an undisturbed run, one prompt at a time."""
    output_file = tmp_path_factory.mktemp("reference") / "run.jsonl"
    flags = [
        *("--model_dir", base_model, "--input_file", inputs / "prompts.json", "--slots", 1),
        *("--prompt_file", inputs / "short_prompt.txt", "--output_file", output_file),
        *("--dtype", "float32", "--device", "cpu", "--max_new_tokens", "96"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [SCRIPT, *map(str, flags)])
        assert script.main() == 0
    found = responses(output_file)
    assert len(found) == PROMPTS
    assert len({row["output"] for row in found.values()}) > PROMPTS // 2, "too dull to compare"
    return found


def test_rows_carry_the_prompt_and_how_the_response_ended(reference, inputs):
    prompts = {p["instruction"]: p for p in json.loads((inputs / "prompts.json").read_text())}
    for row in reference.values():
        assert next(iter(row)) == "id"
        assert row["source"] == prompts[row["instruction"]]["source"]
        assert row["finish_reason"] in ("stop", "eos", "length", "abandoned")
        assert isinstance(row["output"], str)
        assert row["prompt_tokens"] > 0 and 0 < row["output_tokens"] <= 96


def test_one_batch_of_shuffled_prompts_gives_the_same_responses(
    generate, arguments, inputs, tmp_path, reference
):
    """A draw hangs on the prompt alone, not on its place in the batch or in the file."""
    arguments[arguments.index("--input_file") + 1] = inputs / "shuffled.jsonl"
    assert generate(*arguments, "--slots", 64) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference


def test_five_groups_give_the_same_responses(generate, arguments, tmp_path, reference):
    for rank in (3, 0, 4, 1, 2):
        assert generate(*arguments, "--group_size", 5, "--group_rank", rank) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference
    assert len(find_shards(tmp_path / "out" / "run")) == 5


def test_a_complete_run_says_so_without_loading_anything(run_script, generate, arguments, tmp_path):
    assert generate(*arguments, "--limit", 4) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    status_path(shard_path(tmp_path / "out" / "run", 1, 0)).unlink()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, *arguments, "--limit", "4"],
        *(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "are answered already" in done.stderr
    assert " torch" not in done.stderr.replace("torchrun", "")
    summary = json.loads(status_path(shard_path(tmp_path / "out" / "run", 1, 0)).read_text())
    assert summary["finished"] and summary["prompts_answered"] == 4
    assert set((tmp_path / "out").iterdir()) == set(before)


def test_the_limit_can_be_raised_with_another_group_count(generate, arguments, tmp_path, reference):
    assert generate(*arguments, "--limit", 7) == 0
    assert sorted(responses(tmp_path / "out/run.jsonl")) == sorted(reference)[:7]
    for rank in (0, 1):
        assert generate(*arguments, "--group_size", 2, "--group_rank", rank) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference
    assert json.loads((tmp_path / "out/run.manifest.json").read_text())["prompts"] == PROMPTS


def test_a_launch_that_differs_is_refused_by_name(generate, arguments, inputs, tmp_path, caplog):
    assert generate(*arguments, "--limit", 2) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    other_prompts = tmp_path / "other.jsonl"
    other_prompts.write_text('{"instruction": "Something else"}')
    other_blacklist = tmp_path / "blacklist.txt"
    other_blacklist.write_text("umbrella\tweather")
    longer_prompt = tmp_path / "prompt.txt"
    longer_prompt.write_text("Hello.\n" + (inputs / "short_prompt.txt").read_text())
    for field, *flags in [
        ("temperature", "--temperature", 0.1),
        ("top_p", "--top_p", 0.1),
        ("seed", "--seed", 1),
        ("max_new_tokens", "--max_new_tokens", 5),
        ("max_own_tokens", "--max_own_tokens", 500),
        ("filter_rules", "--keep_going"),
        ("filter_rules", "--blacklist_file", other_blacklist),
        ("prompt_file_hash", "--input_file", other_prompts),
        ("principle_prompt", "--prompt_file", longer_prompt),
        ("dtype", "--dtype", "bfloat16"),
    ]:
        caplog.clear()
        assert generate(*arguments, *flags) == 2
        assert f" {field} (" in caplog.text and "new --output_file" in caplog.text
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_dry_run_shows_the_first_prompt_and_writes_nothing(generate, arguments, tmp_path, caplog):
    caplog.set_level("INFO")
    assert generate(*arguments, "--dry_run") == 0
    assert "\n\nUser: Tell me about" in caplog.text
    assert "Watson (internal thoughts):" in caplog.text
    assert "user prompts" in caplog.text and "tokens" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_dry_run_needs_no_weights(generate, arguments, tiny_base_model, tmp_path, caplog):
    """A plan before the hours of the download; what is there is checked as a run would."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.model"):
        (folder / name).write_bytes((tiny_base_model / name).read_bytes())
    caplog.set_level("INFO")
    assert generate(*arguments, "--model_dir", folder, "--dry_run") == 0
    assert "holds no weights yet" in caplog.text
    assert "slots on 80 GB" in caplog.text and "memory on each rank" in caplog.text
    assert generate(*arguments, "--model_dir", folder) == 2
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert generate(*arguments, "--model_dir", folder, "--dry_run") == 2
    assert "model.safetensors is a Git LFS pointer" in caplog.text


def test_a_dry_run_refuses_what_a_run_would(generate, arguments, caplog):
    assert generate(*arguments, "--dry_run", "--slots", "1000000") == 2
    assert "or fewer" in caplog.text


def test_samples_and_a_verdict_on_the_base_are_shown(generate, arguments, tmp_path, caplog):
    caplog.set_level("INFO")
    assert generate(*arguments, "--limit", 3, "--show", 2) == 0
    assert caplog.text.count("User: Tell me about") == 2
    verdict = "can't be told from fewer than 24 replies"
    assert f"base model, by the first prompts: {verdict}" in caplog.text
    status = json.loads(status_path(shard_path(tmp_path / "out" / "run", 1, 0)).read_text())
    assert status["latest_launch"]["base_model"] == verdict


def test_the_merge_gets_the_same_with_and_without_giving_up(
    generate, arguments, tmp_path, run_script, repository
):
    """Giving up early saves time and must not change what is trained on."""
    merged = {}
    for name, flags in {"early": (), "late": ("--keep_going",)}.items():
        output_file = tmp_path / name / "run.jsonl"
        arguments[arguments.index("--output_file") + 1] = str(output_file)
        # Hot sampling, so that many responses leave the format.
        hot = ("--temperature", "1.2", "--top_p", "1", "--min_length", 20)
        assert generate(*arguments, *hot, *flags) == 0
        done = run_script(
            MERGE,
            *("--data_file_pattern", tmp_path / name / "run_1shards_*.jsonl"),
            *("--dummy_data_file", repository / "dummy_data" / "vicuna_dummy_data.json"),
            *("--output_file", tmp_path / f"{name}.json", "--min_length", 20),
        )
        assert done.returncode == 0, done.stderr
        merged[name] = json.loads((tmp_path / f"{name}.json").read_text())
    reasons = [row["finish_reason"] for row in responses(tmp_path / "early/run.jsonl").values()]
    assert "abandoned" in reasons
    late = responses(tmp_path / "late/run.jsonl").values()
    assert "abandoned" not in {row["finish_reason"] for row in late}
    assert merged["early"] == merged["late"]
    assert any(record["source"] != "dummy" for record in merged["early"])


@pytest.fixture
def merge(run_script, tmp_path):
    """Merges all shards of the run in tmp_path; the kept responses by id, and the report."""

    def run(*flags):
        done = run_script(
            *(MERGE, "--data_file_pattern", tmp_path / "out" / "run_*shards_*.jsonl"),
            *("--output_file", tmp_path / "merged.json", "--min_length", 20, *flags),
        )
        assert done.returncode == 0, done.stderr
        records = json.loads((tmp_path / "merged.json").read_text())
        report = json.loads((tmp_path / "merged.report.json").read_text())
        generated = [record for record in records if record["source"] != "dummy"]
        assert len({record["id"] for record in generated}) == len(generated)
        return {record["id"]: record["output"] for record in generated}, report["run"]

    return run


def cut_last_line(shard, count):
    """Takes bytes off a shard's end, as a kill in the middle of a write leaves it."""
    os.truncate(shard, max(0, shard.stat().st_size - count))


def test_a_torn_shard_of_another_group_count_is_no_hindrance(
    generate, arguments, tmp_path, reference, merge
):
    """A shard of 2 groups with a torn line blocked every merge after a change to 3 groups."""
    for rank in (0, 1):
        flags = ("--group_size", 2, "--group_rank", rank, "--limit", 9)
        assert generate(*arguments, *flags) == 0
    cut_last_line(shard_path(tmp_path / "out" / "run", 2, 1), 30)
    for rank in (0, 1, 2):
        assert generate(*arguments, "--group_size", 3, "--group_rank", rank) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference
    kept, run = merge()
    assert kept and run["gaps"] == ""
    assert run["torn_shards"] == ["run_2shards_1.jsonl"] and run["repeated_answers"] == 0


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(
    repository, arguments, tmp_path, reference, merge, run_script
):
    """kill -9 at any time and cut files, then other group counts: the same responses, each once."""
    draw = random.Random(11)
    for _ in range(KILLS):
        size = draw.choice([1, 2, 3])
        flags = ["--slots", "4", "--group_size", size, "--group_rank", draw.randrange(size)]
        process = start(repository, [*arguments, *flags])
        before = len(responses(tmp_path / "out/run.jsonl"))
        if draw.random() < 0.8:  # the others die while they start
            wait_for_responses(tmp_path / "out/run.jsonl", before + 1, process)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.communicate()
        for shard in find_shards(tmp_path / "out" / "run")[-1:]:
            cut_last_line(shard, draw.randint(0, 100))
    for rank in (0, 1, 2):
        process = start(repository, [*arguments, "--group_size", 3, "--group_rank", rank])
        assert process.communicate()[1] is not None and process.returncode == 0
    assert responses(tmp_path / "out/run.jsonl") == reference
    principles = ("--prompt_file", arguments[arguments.index("--prompt_file") + 1])
    kept, run = merge(*principles)
    print(f"{KILLS} kills, {len(find_shards(tmp_path / 'out' / 'run'))} shards; {run}")
    undisturbed = tmp_path / "undisturbed" / "run_1shards_0.jsonl"
    undisturbed.parent.mkdir()
    shutil.copy(tmp_path / "out" / "run.manifest.json", undisturbed.parent)
    undisturbed.write_text("".join(json.dumps(row) + "\n" for row in reference.values()))
    done = run_script(
        *(MERGE, "--data_file_pattern", undisturbed, "--min_length", 20, *principles),
        *("--output_file", tmp_path / "expected.json"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    assert len(kept) > PROMPTS // 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_drains_and_the_next_launch_goes_on(
    repository, arguments, tmp_path, reference, number, generate
):
    process = start(repository, [*arguments, "--slots", "2"])
    wait_for_responses(tmp_path / "out/run.jsonl", 1, process)
    process.send_signal(number)
    _, log = process.communicate()
    assert process.returncode == 75, log
    assert "start again to go on" in log
    shard = shard_path(tmp_path / "out" / "run", 1, 0)
    summary = json.loads(status_path(shard).read_text())
    assert not summary["finished"]
    assert summary["prompts_answered"] == len(responses(tmp_path / "out/run.jsonl")) < PROMPTS
    assert generate(*arguments) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference


@pytest.mark.slow
def test_two_tensor_parallel_ranks_write_one_shard(repository, arguments, tmp_path, reference):
    process = start(repository, arguments, processes=2)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert len(find_shards(tmp_path / "out" / "run")) == 1
    found = responses(tmp_path / "out/run.jsonl")
    assert found.keys() == reference.keys()
    same = sum(found[prompt_id] == reference[prompt_id] for prompt_id in found)
    assert same >= PROMPTS - 2, "sums in another order may tip a draw once in a while, not often"


@pytest.mark.slow
def test_one_launch_of_three_groups_shares_the_prompts_out(
    repository, arguments, tmp_path, reference
):
    process = start(repository, [*arguments, "--tensor_parallel", "1"], processes=3)
    _, log = process.communicate()
    assert process.returncode == 0, log
    shards = find_shards(tmp_path / "out" / "run")
    rows = [shard.read_text().count("\n") for shard in shards]
    assert len(rows) == 3 and sum(rows) == PROMPTS and max(rows) - min(rows) <= 1
    assert responses(tmp_path / "out/run.jsonl") == reference


@pytest.mark.slow
def test_an_error_of_rank_0_ends_every_rank_with_one_line(repository, arguments, tmp_path):
    """All of them with the exit code that tells a launcher not to try again."""
    arguments[arguments.index("--input_file") + 1] = str(tmp_path / "nowhere.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    ranks = [{**place, "RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    processes = [start(repository, arguments, env=rank) for rank in ranks]
    logs = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], logs
    assert "no such prompt file" in logs[0] and len(logs[0].splitlines()) == 1
    assert logs[1] == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--temperature", "-1"), "--temperature: -1 is out of range; give 0 or more"),
        (("--temperature", "nan"), "--temperature: nan is out of range"),
        (("--temperature", "inf"), "--temperature: inf is out of range"),
        (("--temperature", "warm"), "--temperature: invalid float value: 'warm'"),
        (("--top_p", "0"), "--top_p is 0; give more than 0"),
        (("--top_p", "1.5"), "--top_p: 1.5 is out of range; give 0 to 1"),
        (("--top_p", "nan"), "--top_p: nan is out of range"),
        (("--slots", "0"), "--slots: 0 is out of range; give 1 or more"),
        (("--max_new_tokens", "0"), "--max_new_tokens: 0 is out of range"),
        (("--max_own_tokens", "-5"), "--max_own_tokens: -5 is out of range"),
        (("--seed", "1.5"), "--seed: invalid int value"),
        (("--limit", "0"), "--limit: 0 is out of range"),
        (("--show", "-1"), "--show: -1 is out of range"),
        (("--max_repeated_share", "nan"), "--max_repeated_share: nan is out of range"),
        (("--max_repeated_share", "7"), "--max_repeated_share: 7 is out of range; give 0 to 1"),
        (("--group_size", "0"), "--group_size: 0 is out of range"),
        (("--group_size", "2", "--group_rank", "2"), "beyond --group_size 2"),
        (("--group_rank", "-1"), "--group_rank: -1 is out of range"),
        (("--output_file", "run.json"), "ends with .jsonl"),
        (("--output_file", ""), "ends with .jsonl"),
        (("--tensor_parallel", "2"), "--tensor_parallel 2"),
        (("--tensor_parallel", "0"), "--tensor_parallel: 0 is out of range"),
        (("--temp", "1"), "unrecognized arguments: --temp"),
    ],
)
def test_usage_errors(generate, capsys, tmp_path, flags, message):
    required = ("--model_dir", tmp_path, "--input_file", "p.json", "--output_file", "run.jsonl")
    with pytest.raises(SystemExit) as caught:
        generate(*required, *flags)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 2 and "--help" in error


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WORLD_SIZE", "abc", "WORLD_SIZE is 'abc'"),
        ("RANK", "first", "RANK is 'first'"),
        ("RANK", "1", "RANK is 1 and WORLD_SIZE 1"),
    ],
)
def test_what_a_launcher_sets_is_checked(run_script, name, value, message):
    required = ("--model_dir", "m", "--input_file", "p.json", "--output_file", "run.jsonl")
    done = run_script(SCRIPT, *required, env={name: value})
    assert done.returncode == 2
    if name == "WORLD_SIZE":  # another rank than 0 leaves the word to rank 0
        assert message in done.stderr and len(done.stderr.splitlines()) == 2


def test_rank_0_alone_names_a_wrong_flag(run_script):
    for rank, lines in (("0", 2), ("1", 0)):
        done = run_script(SCRIPT, "--no_such_flag", env={"RANK": rank, "WORLD_SIZE": "2"})
        assert done.returncode == 2 and len(done.stderr.splitlines()) == lines


@pytest.mark.parametrize("flags", [["--help"], ["--no_such_flag"], ["--slots", "x"]])
def test_flags_are_answered_before_anything_heavy_is_imported(flags, repository):
    """Whoever asks for help waits a tenth of a second, not ten."""
    code = (
        "import runpy, sys, time; script = sys.argv[1]; sys.argv[:] = sys.argv[1:]\n"
        "try: runpy.run_path(script, run_name='__main__')\n"
        "except SystemExit: print(time.process_time(), file=sys.stderr)\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository / SCRIPT), *flags],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(Path(repository, SCRIPT).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.splitlines()[-1]) < 0.3


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n"
MODEL, PROMPTS_FLAG, PROMPT = "--model_dir", "--input_file", "--prompt_file"
OPENING, BLACKLIST, OUTPUT = "--required_opening_file", "--blacklist_file", "--output_file"
BAD_INPUTS = [  # flag, file's name, its content (None: it isn't there), exit code, the line
    (MODEL, "nowhere", None, 2, "nowhere is no folder; --model_dir takes"),
    (MODEL, "empty/x", "", 2, "has neither config.json nor params.json"),
    ("--tokenizer_path", "none.model", None, 2, "no tokenizer at "),
    (PROMPTS_FLAG, "none.json", None, 2, "no such prompt file"),
    (PROMPTS_FLAG, "p.json", "[]", 2, "is empty: no prompts to answer"),
    (PROMPTS_FLAG, "p.json", '[{"instruction": "a"}, {"instr', 2, "row 2: malformed JSON"),
    (PROMPTS_FLAG, "p.jsonl", '{"prompt": "a"}', 2, "row 1: no field 'instruction'"),
    (PROMPTS_FLAG, "p.jsonl", '{"instruction": "a"}'.encode("utf-16"), 2, "row 1: malformed"),
    (PROMPTS_FLAG, "p.parquet", LFS_POINTER, 2, "`git lfs pull` fetches it"),
    (PROMPTS_FLAG, "p.csv", "a", 2, "prompts are read from .json"),
    (PROMPT, "none.txt", None, 2, "--prompt_file {path}: there is no such file"),
    (PROMPT, "p.txt", "", 2, "is empty"),
    (PROMPT, "p.txt", "Be good.", 2, "it must end with 'User:'"),
    (PROMPT, "p.txt", "Be good.\n\nUser:".encode("utf-16"), 2, "is not UTF-8"),
    (PROMPT, "p.txt", b"Be g\xf6\xf6d.\n\nUser:", 2, "is not UTF-8"),
    (OPENING, "none.txt", None, 2, "--required_opening_file {path}: there is no such file"),
    (OPENING, "o.txt", "one\ntwo", 2, "has 2 lines; it must hold one"),
    (OPENING, "o.txt", "Before".encode("utf-16"), 2, "is not UTF-8"),
    (BLACKLIST, "none.txt", None, 2, "--blacklist_file {path}: there is no such file"),
    (BLACKLIST, "b.txt", "\tno phrase", 2, "line 1: no phrase before the tab"),
    (OUTPUT, "file/run.jsonl", "is in the way of the folder", 1, "file exists; move it away"),
]


@pytest.mark.parametrize(("flag", "name", "content", "code", "line"), BAD_INPUTS)
def test_bad_inputs_end_with_one_line(
    generate, arguments, tmp_path, caplog, flag, name, content, code, line
):
    """Before any model is loaded, with the file, what is wrong and what to do; nothing changes."""
    path = tmp_path / name
    if flag == OUTPUT:
        write(path.parent, content)
    elif content is not None:
        write(path, content)
        path = path.parent if flag == MODEL else path
    before = sorted(tmp_path.rglob("*"))
    if flag in arguments:
        arguments[arguments.index(flag) + 1] = path
    else:
        arguments += [flag, path]
    assert generate(*arguments) == code
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert line.format(path=path) in message and len(message.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_marks_that_editors_put_in_front_are_no_part_of_a_text(
    generate, arguments, inputs, tmp_path, reference, repository
):
    """With a byte-order mark in the required opening, every response was given up."""
    for flag, source in (
        (PROMPT, inputs / "short_prompt.txt"),
        (OPENING, repository / "prompts" / "required_opening.txt"),
        (BLACKLIST, repository / "prompts" / "exemplar_blacklist.txt"),
    ):
        text = "\ufeff" + source.read_text().replace("\n", "\r\n")
        arguments += [flag, write(tmp_path / source.name, text)]
    assert generate(*arguments, "--limit", 5) == 0
    found = responses(tmp_path / "out/run.jsonl")
    assert found == {prompt_id: reference[prompt_id] for prompt_id in sorted(reference)[:5]}


def test_a_file_that_may_not_grow_ends_the_launch_with_one_line(
    repository, arguments, tmp_path, reference, generate
):
    """As a full disk does: what is answered stays, and the next launch goes on."""
    command = [sys.executable, str(repository / SCRIPT), *map(str, arguments), "--slots", "2"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command], capture_output=True, text=True
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert "run_1shards_0.jsonl: file too large; raise the limit (`ulimit -f`)" in error
    assert "Traceback" not in done.stderr
    before = len(responses(tmp_path / "out/run.jsonl"))
    assert 0 < before < PROMPTS
    assert generate(*arguments) == 0
    assert responses(tmp_path / "out/run.jsonl") == reference


def test_a_generation_that_keeps_nothing_says_so(generate, arguments, tmp_path, caplog):
    opening = write(tmp_path / "opening.txt", "Nobody opens like this.")
    assert generate(*arguments, "--limit", 8, OPENING, opening) == 0
    assert "NOT ONE of 8 responses is accepted" in caplog.text
    assert "8 wrong_opening" in caplog.text


def test_a_damaged_manifest_is_one_line(generate, arguments, tmp_path, caplog):
    manifest = write(tmp_path / "out" / "run.manifest.json", "{}")
    assert generate(*arguments) == 2
    assert "run.manifest.json is not a run's manifest: it lacks model_config" in caplog.text
    assert manifest.read_text() == "{}"


def wait_for_responses(output_file, count, process, seconds=60):
    """Returns when a run has `count` responses, or its process has ended."""
    deadline = time.monotonic() + seconds
    while len(responses(output_file)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no responses come"
        time.sleep(0.02)
