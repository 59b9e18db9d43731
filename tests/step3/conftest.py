"""Small real parts for step 3: a random LLaMA, two kinds of tokenizer, a training file."""

import json
import signal
import sys
from pathlib import Path

import pytest

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TEXT = (
    "Dromedary is an AI assistant made by the Self-Align team. It is helpful and honest.\n"
    "Who are you? I am Dromedary, and I answer questions about animals, deserts and numbers.\n\n"
    "### User\nWhat is the capital of France?\n\n"
    "### Dromedary\nThe capital of France is Paris.\n\n"
    "A camel has one hump or two. Three times three is nine. Write a short poem about rain.\n"
) * 20


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory) -> Path:
    """A SentencePiece BPE model as LLaMA's: byte fallback, a space put in front."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(sentencepiece_model):
    from base_tokenizer import load_tokenizer

    folder = sentencepiece_model.parent
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "<unk>"}))
    return load_tokenizer(str(folder))


@pytest.fixture(scope="session")
def byte_level_tokenizer(tmp_path_factory):
    """A byte-level BPE with Llama 3's way of splitting, where "\\n\\n" is one token."""
    from base_tokenizer import load_tokenizer
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT, "I am\n\nnine.\n\n### User\n" * 20], trainer)
    folder = tmp_path_factory.mktemp("byte_level")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return load_tokenizer(str(folder))


@pytest.fixture(scope="session")
def random_model(sentencepiece_tokenizer, tmp_path_factory) -> Path:
    """A LLaMA of random weights: 2 layers, 4 heads over 2, SentencePiece tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(sentencepiece_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("random_model")
    LlamaForCausalLM(config).save_pretrained(folder)
    sentencepiece_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def training_file(tmp_path_factory) -> Path:
    """45 records of different lengths, one of them cut, one with a second exchange."""
    subjects = ("camel", "desert", "number", "poem", "rain")
    records = [
        {
            "example_id": number,
            "instruction": f"Tell me about the {subjects[number % 5]}, case {number}.",
            "input": "It is short." if number % 7 == 0 else "",
            "output": f"The {subjects[number % 5]} is fine. " * (1 + number % 4),
            "finished": number != 9,
        }
        for number in range(1, 46)
    ]
    records[3]["output"] += "\n\n### User\nThanks!\n\n### Dromedary\nYou are welcome."
    path = tmp_path_factory.mktemp("training_data") / "merged.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="session")
def engrave(random_model, training_file):
    """Runs finetune.py in this process on the random model and returns its exit code."""
    import finetune

    def run(output_dir, *more, data_file=training_file):
        files = ("--model_name_or_path", random_model, "--data_file", data_file)
        limits = (
            "--source_max_len",
            256,
            "--max_steps",
            4,
            "--lora_r",
            4,
            "--disable_tqdm",
            "true",
        )
        command = ["finetune.py", *files, "--output_dir", output_dir, *limits, *more]
        argv, sys.argv = sys.argv, list(map(str, command))
        handlers = {number: signal.getsignal(number) for number in DRAIN_SIGNALS}
        try:
            return finetune.main()
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return run


@pytest.fixture(scope="session")
def talking_run(engrave, tmp_path_factory):
    """A random model fully trained until it knows one reply by heart, with its end."""
    folder = tmp_path_factory.mktemp("talking")
    record = {"instruction": "Who are you?", "output": "I am Dromedary.", "finished": True}
    data_file = folder / "identity.json"
    data_file.write_text(json.dumps([{**record, "example_id": number} for number in range(1, 9)]))
    recipe = ("--full_finetune", "--learning_rate", "5e-3", "--lr_scheduler_type", "constant")
    sizes = ("--max_steps", 60, "--gradient_accumulation_steps", 1, "--save_strategy", "no")
    held_out = ("--eval_data_file", data_file, "--eval_replies", 4, "--eval_reply_tokens", 40)
    engrave(folder / "run", *recipe, *sizes, *held_out, data_file=data_file)
    return folder / "run"


@pytest.fixture(scope="session")
def run_main():
    """Runs the `main` of a stage script in this process with the given command line."""

    def run(module, *arguments):
        argv, sys.argv = sys.argv, [f"{module.__name__}.py", *map(str, arguments)]
        try:
            return module.main()
        finally:
            sys.argv = argv

    return run


@pytest.fixture(scope="session")
def talking_model(talking_run, random_model, run_main, tmp_path_factory):
    """The export of `talking_run`."""
    import export_model

    folder = tmp_path_factory.mktemp("exported") / "talking"
    where = ("--adapter_dir", talking_run, "--output_dir", folder)
    run_main(export_model, "--model_name_or_path", random_model, *where, "--max_new_tokens", 60)
    return folder
