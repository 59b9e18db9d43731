"""The tiny base model: its checkpoint, what it learned from, and the quickstart's data."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pandas
import pytest
import sentencepiece
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES = (
    "openorca_sample.parquet",
    "sharegpt_value.json",
    "sharegpt_markdown.json",
    "dolly_sample.jsonl",
    "oasst_sample.jsonl",
)


@pytest.fixture(scope="module")
def conversations(repository: Path):
    """The module synthetic_conversations, which lies beside the training script."""
    return load_module(repository, "synthetic_conversations")


def load_module(repository: Path, name: str):
    path = repository / "scripts" / "tiny_base_model" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def quickstart_prompts(folder: Path) -> list[str]:
    """Every user text of the samples as it stands in the files."""
    prompts = list(pandas.read_parquet(folder / "openorca_sample.parquet")["question"])
    for key in ("value", "markdown"):
        rows = json.loads((folder / f"sharegpt_{key}.json").read_text(encoding="utf-8"))
        turns = [turn for row in rows for turn in row["conversations"]]
        prompts += [turn[key] for turn in turns if turn["from"] == "human"]
    dolly, oasst = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("dolly_sample.jsonl", "oasst_sample.jsonl")
    )
    prompts += [row["instruction"] for row in dolly]
    return prompts + [row["text"] for row in oasst if row["role"] == "prompter"]


def test_checkpoint_is_small(tiny_base_model):
    """It is committed: 4 MB at most, and one or two million parameters."""
    assert sum(path.stat().st_size for path in tiny_base_model.iterdir()) <= 4 * 2**20
    with safe_open(tiny_base_model / "model.safetensors", "pt") as file:
        sizes = [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118
    assert 1_000_000 <= sum(sizes) <= 2_000_000


def test_checkpoint_loads_without_a_missing_or_unused_tensor(tiny_base_model):
    model, info = AutoModelForCausalLM.from_pretrained(
        tiny_base_model, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.config.max_position_embeddings >= 6000
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)


def test_both_tokenizer_files_give_the_same_ids_and_one_bos(tiny_base_model, repository):
    """transformers adds no BOS of its own to a tokenizer.model; tokenizer.json carries it."""
    from_json = AutoTokenizer.from_pretrained(tiny_base_model)
    pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(tiny_base_model / "tokenizer.model")
    )
    prompt = (repository / "prompts" / "watson_self_align_prompt.txt").read_text(encoding="utf-8")
    for text in (prompt, "Who are you?", "Línea ñ 你好 🐪\n\n### Dromedary\n  two  spaces"):
        assert from_json(text)["input_ids"] == [pieces.bos_id(), *pieces.encode(text)]
        assert pieces.decode(pieces.encode(text)) == text


def test_held_out_words_and_wordings_never_occur_in_training(conversations, repository):
    """Otherwise naming a topic would show memory, not copying."""
    training = conversations.ConversationMaker(42, "")
    seen = [training.conversation() for _ in range(4000)]
    held_out = conversations.ConversationMaker(42, "", held_out=True, held_out_words=True)
    words = set(held_out.words.nouns + held_out.words.adjectives)
    assert not words & {word for each in seen for word in re.findall(r"[\w-]+", each.prompt)}
    for kind in held_out.kinds.values():
        assert not set(kind["prompts"]) & set(kind["held_out_prompts"])
    samples = quickstart_prompts(repository / "scripts" / "quickstart_data")
    assert not set(samples) & {each.prompt for each in seen}


def five_words(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def test_comparison_shares_no_five_words_with_anything_that_training_sees(
    conversations, repository
):
    """A prompt that training saw would show memory."""
    maker = conversations.ConversationMaker(7, "")
    seen = [maker.conversation().prompt for _ in range(4000)]
    seen += quickstart_prompts(repository / "scripts" / "quickstart_data")
    rows = json.loads((repository / "dummy_data/vicuna_dummy_data.json").read_text("utf-8"))
    turns = [turn for row in rows for turn in row["conversations"]]
    identity = {turn["value"] for turn in turns if turn["from"] == "human"}
    known = {words: text for text in (*seen, *identity) for words in five_words(text)}
    for name, count in (("unseen_prompts", 160), ("identity_questions", 40)):
        lines = (repository / f"prompts/comparison/{name}.jsonl").read_text("utf-8").splitlines()
        prompts = {json.loads(line)["instruction"] for line in lines}
        assert len(prompts) == len(lines) == count
        assert not prompts & identity
        shared = {known[words] for prompt in prompts for words in five_words(prompt) & set(known)}
        assert not shared, (name, shared)


def test_comparison_asks_for_topics_that_no_reply_names_by_chance(conversations, repository):
    """Words of the grammars' own sentences would count as named without being copied."""
    folder = repository / "scripts" / "tiny_base_model"
    grammar = set(re.findall(r"\w+", (folder / "conversation_texts.json").read_text("utf-8")))
    lines = (repository / "prompts/comparison/unseen_prompts.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        assert row["topic"] and not set(row["topic"]) & grammar, row
        assert all(topic in row["instruction"] for topic in row["topic"]), row


def test_a_reply_names_its_topic_and_the_seed_decides_everything(conversations):
    first, second, other = (
        [maker.conversation() for _ in range(300)]
        for maker in (conversations.ConversationMaker(seed, "Opening.") for seed in (1, 1, 2))
    )
    assert first == second
    assert first != other
    for each in first:
        assert each.topics
        assert any(topic in each.reply for topic in each.topics)
        assert len(each.reply) >= 160
        assert not re.search(r"[\[\]{}|]", each.prompt + each.continuation())


def test_documents_show_the_headings_and_the_end_but_no_answer_that_ends(conversations, repository):
    """A base model has read all of it; to answer and to stop is what engraving teaches."""
    documents = load_module(repository, "synthetic_documents")
    maker = documents.DocumentMaker(conversations.ConversationMaker(3, ""))
    made = [maker.document() for _ in range(300)]
    texts = {each: "".join(text for text, _ in each.parts) for each in made}
    pages = [each for each in made if "### Dromedary" in texts[each]]
    assert 150 < len(pages) < 270
    for page in pages:
        assert not page.ends and texts[page].endswith("### User\n")
    for article in set(made) - set(pages):
        assert article.ends and "###" not in texts[article]
    assert "I am Dromedary" not in "".join(texts.values())


def test_quickstart_data_is_what_its_script_makes(repository, run_script, tmp_path):
    script = "scripts/tiny_base_model/make_quickstart_data.py"
    done = run_script(script, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    committed = repository / "scripts" / "quickstart_data"
    for name in SAMPLES:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name


@pytest.mark.slow
def test_training_twice_from_one_seed_gives_the_same_bytes(run_script, tmp_path):
    """Two short runs of the whole script; the last step has the whole principle prompt in front."""
    for name in "ab":
        done = run_script(
            "scripts/tiny_base_model/train_tiny_base_model.py",
            *("--output_dir", tmp_path / name, "--steps", 4, "--batch_size", 2, "--threads", 1),
        )
        assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "tokenizer.model", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
