"""A prompt file's own dialogue: its format file, and what generator and merge make of it."""

import json
import re
import sys
from dataclasses import asdict

import generate_self_align_response as script
import pytest
from engine.engine import Engine, EngineSettings, Request, SamplingSettings
from engine.stopping import ResponseText
from prompt_file import read_principle_prompt
from prompt_format import SELF_ALIGN, PromptFormat, read_prompt_format
from run_manifest import RunManifest
from step2.merge_cases import OPENING, REPLY, THOUGHTS, Run, prompt, responses_among
from step2.merge_cases import response as answer
from user_error import UserError, run_script

WATSON = """
ends_with = "User:"
before = " "
cue = "\\n\\nWatson (internal thoughts):"
reply_marker = "\\nWatson:"
end_marker = "\\nUser:"
rules = "self_align"
forbid_eos = false
"""


def write_format(folder, text):
    (folder / "p.format.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "p.txt"


def test_without_a_file_the_dialogue_is_the_self_align_one(tmp_path):
    assert read_prompt_format(tmp_path / "p.txt") == SELF_ALIGN
    for text in (WATSON, "\ufeff" + WATSON, WATSON.replace("\n", "\r\n")):
        assert read_prompt_format(write_format(tmp_path, text)) == SELF_ALIGN


def test_the_readme_spells_out_the_default(tmp_path, repository):
    readme = (repository / "step2_principle_driven_self_alignment" / "README.md").read_text()
    block = re.search(r"```\n(ends_with.*?)```", readme, flags=re.DOTALL)[1]
    assert read_prompt_format(write_format(tmp_path, block)) == SELF_ALIGN


def test_the_formats_of_the_project_fit_their_prompts(repository):
    formats = sorted((repository / "prompts").rglob("*.format.toml"))
    assert len(formats) >= 4
    for path in formats:
        prompt_file = path.with_name(path.name.replace(".format.toml", ".txt"))
        dialogue = read_prompt_format(prompt_file)
        if prompt_file.exists():
            assert read_principle_prompt(prompt_file, dialogue)


def test_markers_may_be_left_out_where_no_rules_look_for_them(tmp_path):
    text = WATSON.replace("self_align", "none").replace("false", "true")
    text = re.sub("(reply|end)_marker.*\n", "", text)
    found = read_prompt_format(write_format(tmp_path, text))
    assert (found.reply_marker, found.end_marker, found.forbid_eos) == ("", "", True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("before = ", "befor = ", "unknown field 'befor'; the fields are ends_with, before, cue"),
        ('before = " "', "", "no field 'before'; only reply_marker, end_marker, after_bos may"),
        ("forbid_eos = false", "", "no field 'forbid_eos'"),
        ('before = " "', "before = 1", "before is 1; give a text in quotes"),
        ("= false", '= "no"', "forbid_eos is 'no'; give true or false"),
        ("self_align", "strict", "rules is 'strict'; give 'self_align' or 'none'"),
        ('reply_marker = "\\nWatson:"', "", "reply_marker is empty, and the rules of 'self_align'"),
        ("= false", "= true", "forbid_eos needs rules = 'none'"),
        ('before = " "', 'before = " ', "line 3"),
        (WATSON, WATSON.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_format_that_is_no_good_is_named_in_one_line(tmp_path, old, new, message):
    text = new if isinstance(new, bytes) else WATSON.replace(old, new)
    with pytest.raises(UserError) as caught:
        read_prompt_format(write_format(tmp_path, text))
    assert message in str(caught.value) and "p.format.toml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_prompt_must_end_as_its_format_says(tmp_path):
    path = write_format(tmp_path, WATSON.replace("User:", "Friend:"))
    path.write_text("Be good.\n\nUser:\n")
    with pytest.raises(UserError, match=r"ends with .*User:'; it must end with 'Friend:'"):
        read_principle_prompt(path, read_prompt_format(path))
    path.write_text("Be good.\n\nFriend:\n")
    assert read_principle_prompt(path, read_prompt_format(path)) == "Be good.\n\nFriend:"


@pytest.mark.parametrize(
    ("markers", "text", "ends"),
    [
        (("\nWatson:", "\nUser:"), " a\nUser: b\nWatson: c\nUser: d", " a\nUser: b\nWatson: c"),
        (("", "\nUser:"), " a\nWatson: b\nUser: c", " a\nWatson: b"),
        (("\nWatson:", ""), " a\nWatson: b\nUser: c", None),
        (("", ""), " a\nUser: b", None),
    ],
)
def test_where_a_response_ends(markers, text, ends):
    dialogue = PromptFormat(reply_marker=markers[0], end_marker=markers[1], rules="none")
    response = ResponseText(dialogue)
    ended = [response.append(character.encode()) for character in text]
    assert any(ended) == (ends is not None)
    assert response.text == (text if ends is None else ends)


def test_end_of_sequence_can_be_forbidden(tiny_model):
    requests = [Request(str(number), f" {number}.") for number in range(32)]
    endings = {}
    for forbid_eos in (False, True):
        dialogue = PromptFormat(reply_marker="", end_marker="", rules="none", forbid_eos=forbid_eos)
        engine = Engine(
            EngineSettings(
                tiny_model("llama2"),
                "Numbers:",
                device="cpu",
                prompt_format=dialogue,
                sampling=SamplingSettings(temperature=3, top_p=1, max_new_tokens=60),
            )
        )
        completions = list(engine.generate(requests))
        endings[forbid_eos] = {completion.finish_reason for completion in completions}
        drawn = {token for completion in completions for token in completion.output_ids}
        assert bool(drawn & engine.eos_ids) == (not forbid_eos)
    assert endings == {False: {"eos", "length"}, True: {"length"}}


@pytest.fixture
def generate(monkeypatch, tmp_path, tiny_base_model):
    """Runs the generator on four prompts with a short prompt file; the exit code."""
    prompts = [prompt(number) for number in range(4)]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))

    def run(prompt_file, name, *flags):
        arguments = [
            *("--model_dir", tiny_base_model, "--input_file", tmp_path / "prompts.json"),
            *("--prompt_file", prompt_file, "--output_file", tmp_path / f"{name}.jsonl"),
            *("--dtype", "float32", "--device", "cpu", "--max_new_tokens", "24", *flags),
        ]
        monkeypatch.setattr(sys, "argv", ["generate", *map(str, arguments)])
        return run_script(script.main, script.logger.error)

    return run


def test_the_spelt_out_default_changes_no_response(generate, tmp_path):
    (tmp_path / "plain.txt").write_text("Watson helps.\n\nUser:")
    (tmp_path / "p.txt").write_text("Watson helps.\n\nUser:")
    assert generate(tmp_path / "plain.txt", "plain") == 0
    assert generate(write_format(tmp_path, WATSON), "spelt") == 0
    plain, spelt = (tmp_path / f"{name}_1shards_0.jsonl" for name in ("plain", "spelt"))
    assert sorted(plain.read_text().splitlines()) == sorted(spelt.read_text().splitlines())


def test_another_codename_works_from_the_prompt_to_the_merge(
    generate, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    path = write_format(tmp_path, WATSON.replace("Watson (internal", "Cicero (internal"))
    path.write_text("Cicero helps.\n\nUser:")
    text = path.with_name("p.format.toml").read_text().replace("nWatson:", "nCicero:")
    write_format(tmp_path, text)
    assert generate(path, "run", "--keep_going", "--show", 1) == 0
    assert "\n\nCicero (internal thoughts):" in caplog.text and "Watson" not in caplog.text
    manifest = RunManifest.load(tmp_path / "run.manifest.json")
    assert manifest.dialogue.codename == "Cicero"
    (tmp_path / "run_1shards_0.jsonl").unlink()
    run = Run(tmp_path)  # with responses as a model that follows the prompt gives them
    rows = [answer(n, output=f" {OPENING} {THOUGHTS}\n\nCicero: {REPLY}") for n in range(4)]
    rows[3]["output"] = f" {OPENING} {THOUGHTS}\n\nWatson: {REPLY}"
    rows[2]["output"] += " Cicero is glad to help.\n\nCicero: I go on."
    run.shard(1, 0, rows)
    merged = responses_among(run.merge(monkeypatch))
    assert len(merged) == 3 and "Cicero" not in json.dumps(merged)
    assert any("Dromedary is glad to help." in record["output"] for record in merged)


def test_a_changed_format_is_another_run(generate, tmp_path, caplog):
    path = write_format(tmp_path, WATSON)
    path.write_text("Watson helps.\n\nUser:")
    assert generate(path, "run", "--limit", 2) == 0
    write_format(tmp_path, WATSON.replace('before = " "', 'before = "\\n"'))
    assert generate(path, "run") == 2
    assert "prompt_format.before (--prompt_file) is '\\n' here and ' ' there" in caplog.text


def test_without_rules_nothing_is_given_up_or_merged(generate, tmp_path, monkeypatch):
    path = write_format(tmp_path, WATSON.replace("self_align", "none"))
    path.write_text("Watson helps.\n\nUser:")
    assert generate(path, "run") == 0
    rows = [json.loads(row) for row in (tmp_path / "run_1shards_0.jsonl").open()]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    status = json.loads((tmp_path / "run_1shards_0.status.json").read_text())
    assert status["latest_launch"]["rejected"] == {}
    with pytest.raises(UserError, match="rules = 'none'"):
        Run(tmp_path).merge(monkeypatch)
    assert not (tmp_path / "merged.json").exists()


def test_a_manifest_of_before_has_the_self_align_dialogue(tmp_path):
    Run(tmp_path).manifest([prompt(1)])
    path = tmp_path / "run.manifest.json"
    content = json.loads(path.read_text())
    assert content.pop("prompt_format") == asdict(SELF_ALIGN)
    path.write_text(json.dumps(content))
    assert RunManifest.load(path).dialogue == SELF_ALIGN
