"""The exported folder speaks to plain transformers exactly as base + adapter speak to our code."""

import json
import subprocess
import sys

import export_model
import pytest
import torch
from base_tokenizer import load_tokenizer
from dialogue_format import DEFAULT_META_PROMPTS, choose_meta_prompt, engraved_prompt
from engraved_model import load_base_model, load_engraved_model
from engraving_command import UserError
from engraving_data import DialogueTokenizer
from peft import PeftModel

MESSAGES = ["Who are you?", "A poem\n\nabout rain", "Tell me about the camel, case 3.", "9"]
KINDS = {
    "lora": ("--bits", 16, "--learning_rate", 0.02),
    "nf4": ("--bits", 4, "--learning_rate", 0.02),
    "full": ("--full_finetune", "--learning_rate", 0.005),
}
# What a stranger does: transformers alone, no code of this project.
STRANGER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folders, messages = json.loads(sys.argv[1])
found = {}
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = found[folder] = []
    for message in messages:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True)
        length = prompt["input_ids"].shape[1]
        ids = model.generate(**prompt)[0].tolist()
        rows.append([ids[:length], ids[length:], tokenizer.decode(ids[length:])])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def exported(engrave, random_model, run_main, tmp_path_factory):
    """For each kind of training: the folder of the run and the folder of its export."""
    folder = tmp_path_factory.mktemp("export")
    found = {}
    for kind, flags in KINDS.items():
        run, target = folder / f"{kind}_run", folder / kind
        engrave(run, *flags, "--save_strategy", "no")
        where = ("--adapter_dir", run, "--output_dir", target, "--max_new_tokens", 24)
        assert run_main(export_model, "--model_name_or_path", random_model, *where) == 0
        found[kind] = (run, target)
    return found


@pytest.fixture(scope="module")
def answers(exported, talking_model, tmp_path_factory):
    """What a fresh process with transformers alone gets from the exported folders."""
    folders = [*(str(target) for _, target in exported.values()), str(talking_model)]
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps([folders, MESSAGES])],
        cwd=tmp_path_factory.mktemp("stranger"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def prompts(random_model):
    """The messages as training would tokenise them."""
    encoder = DialogueTokenizer(load_tokenizer(str(random_model)))
    system = choose_meta_prompt(DEFAULT_META_PROMPTS, "standard")
    return [encoder.encode_start(engraved_prompt(system, message)) for message in MESSAGES]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_base_and_adapter(
    exported, answers, prompts, random_model, kind
):
    run, target = exported[kind]
    model = load_engraved_model(str(random_model), run, bits=4 if kind == "nf4" else 16).eval()
    base = load_base_model(str(random_model)).eval()
    changed = 0
    for prompt, (prompt_ids, reply_ids, _) in zip(prompts, answers[str(target)], strict=True):
        assert prompt_ids == prompt  # the chat template renders exactly the training format
        expected = greedy(model, prompt, len(reply_ids))
        assert reply_ids == expected
        changed += expected != greedy(base, prompt, len(reply_ids))
    assert changed > 0


def greedy(model, prompt, count):
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
        )
    return found[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_an_adapter_of_a_4_bit_base_is_merged_into_the_dequantised_weights(
    exported, prompts, random_model
):
    """Merged into the original weights, it answered differently."""
    run, target = exported["nf4"]
    prompt = torch.tensor([prompts[0]])
    with torch.no_grad():
        trained = load_engraved_model(str(random_model), run, bits=4).eval()(prompt).logits
        merged = load_base_model(str(target)).eval()(prompt).logits
        original = PeftModel.from_pretrained(load_base_model(str(random_model)), run)
        wrong = original.merge_and_unload().eval()(prompt).logits
    assert (merged - trained).abs().max() < 1e-3
    assert (wrong - trained).abs().max() > 0.1


@pytest.mark.slow
def test_a_reply_ends_by_itself_in_plain_transformers(answers, talking_model):
    """Nothing but our own code stopped at the marker."""
    for _, ids, text in answers[str(talking_model)][:1]:
        assert text == "I am Dromedary.</s>"
        assert len(ids) < 60


@pytest.mark.slow
def test_the_folder_holds_what_others_need(exported):
    _, target = exported["lora"]
    names = {path.name for path in target.iterdir()}
    assert names >= {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"}
    settings = json.loads((target / "generation_config.json").read_text())
    assert "stop_strings" not in settings
    assert settings["eos_token_id"] == settings["pad_token_id"] == 2
    card = (target / "README.md").read_text()
    for part in ("base_model: random_model", "learning rate", "data: examples | 45", "Licence"):
        assert part in card


@pytest.mark.slow
def test_an_export_is_replaced_and_nothing_else_is(exported, random_model, run_main, tmp_path):
    run, _ = exported["lora"]
    base = ("--model_name_or_path", random_model, "--adapter_dir", run)
    target = tmp_path / "target"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run_main(export_model, *base, "--output_dir", target)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]

    (target / "notes.txt").unlink()
    for dtype in ("float32", "bfloat16"):
        run_main(export_model, *base, "--output_dir", target, "--dtype", dtype)
        assert load_base_model(str(target)).dtype == getattr(torch, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    with pytest.raises(UserError, match="no adapter or model in"):
        run_main(export_model, *base[:2], "--adapter_dir", tmp_path, "--output_dir", target)
