"""The manifest: one run, one set of settings, also when several groups start at once."""

import json
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from run_manifest import RunDiffersError, RunManifest, hash_tokenizer, hash_weights
from user_error import UserError

MANIFEST = RunManifest(
    model_config="c",
    weights="w",
    tokenizer="t",
    principle_prompt="p",
    filter_rules="f",
    keep_going=False,
    temperature=0.7,
    top_p=0.95,
    seed=42,
    max_new_tokens=512,
    max_own_tokens=768,
    dtype="auto",
    prompt_file_hash="h",
    prompts=100,
    prompt_ids_hash="i100",
    input_file="prompts.json",
)


def test_it_comes_back_as_it_was_saved(tmp_path):
    MANIFEST.save(tmp_path / "run.manifest.json")
    assert RunManifest.load(tmp_path / "run.manifest.json") == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["run.manifest.json"]


def test_every_field_that_a_response_depends_on_is_compared(tmp_path):
    path = tmp_path / "run.manifest.json"
    assert MANIFEST.check(path) is None
    MANIFEST.join(path)
    for field in fields(RunManifest):
        value = getattr(MANIFEST, field.name)
        changed, name = value + 1 if isinstance(value, int | float) else "other", field.name
        if field.name == "prompt_format":
            changed, name, value = {**value, "cue": "Go on:"}, "prompt_format.cue", value["cue"]
        other = replace(MANIFEST, **{field.name: changed})
        if field.name in ("prompts", "prompt_ids_hash", "input_file"):
            other.check(path)
            continue
        with pytest.raises(
            RunDiffersError,
            match=rf"{name} \(.*\) is .* here and {re.escape(repr(value))} there",
        ):
            other.check(path)
        with pytest.raises(RunDiffersError, match="new --output_file"):
            other.join(path)
    assert RunManifest.load(path) == MANIFEST


def test_the_limit_can_be_raised_and_is_never_lowered(tmp_path):
    path = tmp_path / "run.manifest.json"
    MANIFEST.join(path)
    raised = replace(MANIFEST, prompts=200, prompt_ids_hash="i200", input_file="elsewhere.json")
    assert raised.join(path) == replace(raised, input_file="prompts.json")
    assert MANIFEST.join(path).prompts == 200
    assert RunManifest.load(path).prompt_ids_hash == "i200"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff", "decode"),
        (b"[]", "it holds no object"),
        (b"{}", "it lacks model_config, weights, tokenizer, …"),
        (json.dumps({**vars(MANIFEST), "more": 1}).encode(), "'more' is none of its fields"),
        (json.dumps({**vars(MANIFEST), "prompts": "9"}).encode(), "prompts is '9'"),
    ],
)
def test_a_file_that_is_no_manifest_is_named_in_one_line(tmp_path, content, reason):
    path = tmp_path / "run.manifest.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"run\.manifest\.json is not a run's manifest") as caught:
        MANIFEST.join(path)
    assert reason in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == content


def test_of_launches_that_start_at_once_one_creates_the_run(tmp_path, repository):
    """Eight processes with two different seeds: those with the seed that came first go on."""
    program = (
        "import sys, json, pathlib; from run_manifest import *\n"
        "manifest = RunManifest(**json.loads(sys.argv[2])); print('up', flush=True); input()\n"
        "try: print(manifest.join(pathlib.Path(sys.argv[1])).seed)\n"
        "except RunDiffersError: print('refused')\n"
    )
    path = tmp_path / "run.manifest.json"
    launches = []
    for index in range(8):
        settings = json.dumps({**vars(MANIFEST), "seed": index % 2})
        launches.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(path), settings],
                cwd=repository / "step2_principle_driven_self_alignment",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    assert all(launch.stdout.readline() == "up\n" for launch in launches)
    for launch in launches:
        launch.stdin.write("\n")
        launch.stdin.flush()
    words = [launch.communicate()[0].strip() for launch in launches]
    first = RunManifest.load(path).seed
    assert words == [str(first) if i % 2 == first else "refused" for i in range(8)]
    assert [file.name for file in tmp_path.iterdir()] == ["run.manifest.json"]


def test_changed_weights_show(tmp_path):
    weights = tmp_path / "model.safetensors"
    content = bytearray(b"x" * 3_000_000)
    weights.write_bytes(content)
    seen = {hash_weights(tmp_path)}
    for change in (0, 100):
        content[change] = 0
        weights.write_bytes(content)
        seen.add(hash_weights(tmp_path))
    weights.write_bytes(content[:-1])
    seen.add(hash_weights(tmp_path))
    (tmp_path / "more.safetensors").write_bytes(b"")
    seen.add(hash_weights(tmp_path))
    assert len(seen) == 5


def test_missing_weights_and_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match="no weights"):
        hash_weights(tmp_path)
    with pytest.raises(UserError, match="--tokenizer_path"):
        hash_tokenizer(tmp_path)
