"""Step 3, export: base + adapter become one model folder that anyone can load.

    python export_model.py --model_name_or_path BASE --adapter_dir engraved --output_dir exported

Reads the base model and what finetune.py wrote. Writes safetensors, tokenizer, chat template,
generation config, and a model card. An adapter that was trained on a 4-bit
base is merged into the dequantised weights, the ones that it was trained on. The folder is written
beside and renamed; an earlier export in its place is replaced, anything else there is left alone.
"""

# ruff: noqa: E402  the flags are looked at before the imports that take seconds

import argparse
import logging
import shutil
import sys
from pathlib import Path

from dialogue_format import DEFAULT_META_PROMPTS, MetaPrompt
from engraving_command import DTYPE_NAMES, CommandParser, UserError, run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="the base model that was fine-tuned")
    add("--adapter_dir", type=Path, required=True, help="the --output_dir of finetune.py")
    add("--output_dir", type=Path, required=True, help="folder to write")
    add("--dtype", choices=DTYPE_NAMES, help="of the weights; the base's own if left out")
    add(
        "--bits", type=int, choices=(4, 16), help="of the base in training; known for finetune.py's"
    )
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add(
        "--system",
        default="standard",
        help="default system prompt: a word of its name, or a text file",
    )
    add("--max_new_tokens", type=int, default=512, help="longest reply, in the generation config")
    args = parser.parse_args(argv)
    if args.max_new_tokens < 1:
        parser.error(f"--max_new_tokens {args.max_new_tokens} must be at least 1")
    return args


if __name__ == "__main__":
    parse_args()

import jinja2
import torch
from base_tokenizer import begin_ids, load_tokenizer
from dialogue_format import (
    ASSISTANT_HEADING,
    USER_HEADING,
    chat_template,
    choose_meta_prompt,
)
from engraved_model import DTYPES, is_adapter, merged_model
from exact_checkpoints import read_fingerprint, refuse_other_base
from plain_files import read_json, saving, write_json
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("export_model")

SUMMARY = "training_summary.json"
MARK = "export_summary.json"
CARD = Path(__file__).with_name("model_card.md.jinja")
CARD_SETTINGS = {
    "bits": "bits of the base in training",
    "lora_r": "adapter rank",
    "lora_alpha": "adapter alpha",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up (steps, or share of the steps)",
    "examples_per_step": "examples a step",
    "max_grad_norm": "gradient norm limit",
    "source_max_len": "longest prompt, tokens",
    "target_max_len": "longest reply, tokens",
    "seed": "seed",
}


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    logger.setLevel(logging.INFO)
    is_adapter(args.adapter_dir)  # refuses a folder that holds neither adapter nor model
    check_output(args.output_dir)
    system = choose_meta_prompt(args.meta_prompt_pattern, args.system)
    training = read_training(args.adapter_dir)
    refuse_other_base(training.get("settings", {}), args.model_name_or_path)
    bits = args.bits or training.get("settings", {}).get("bits", 16)

    tokenizer = load_tokenizer(args.model_name_or_path)
    model = merged_model(
        args.model_name_or_path,
        args.adapter_dir,
        bits=bits,
        dtype=DTYPES.get(args.dtype),
    )
    equip(model, tokenizer, system, args.max_new_tokens)
    write_export(model, tokenizer, args, training)
    size = sum(path.stat().st_size for path in args.output_dir.iterdir())
    logger.info("wrote %s (%s, %.1f MB)", args.output_dir, str(model.dtype)[6:], size / 1e6)
    return 0


def check_output(output_dir: Path) -> None:
    """Refuses to replace anything but an earlier export."""
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / MARK).is_file():
        raise UserError(f"{output_dir} holds other files; give --output_dir a new folder")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; give --output_dir a new folder")


def read_training(adapter_dir: Path) -> dict:
    """What finetune.py wrote about its run; for a foreign adapter nothing."""
    if (adapter_dir / SUMMARY).is_file():
        return read_json(adapter_dir / SUMMARY)
    settings = read_fingerprint(adapter_dir)
    if settings:
        logger.warning("%s is not the end of its run; finetune.py ends it", adapter_dir)
    return {"settings": settings} if settings else {}


def equip(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    system: MetaPrompt,
    max_new_tokens: int,
) -> None:
    """Chat template, a generation config that stops at the end-of-sequence token, and a cache that
    is on. What is invalid in the base's own settings is mended.
    """
    bos = tokenizer.decode(begin_ids(tokenizer))
    tokenizer.chat_template = chat_template(
        system.system,
        bos=bos,
        eos=tokenizer.eos_token,
        special_tokens=dict.fromkeys(tokenizer.all_special_tokens),
    )
    known = (tokenizer.eos_token_id, model.generation_config.eos_token_id)
    ends = [token for one in known for token in (one if isinstance(one, list) else [one])]
    ends = list(dict.fromkeys(token for token in ends if is_token(token, model)))
    padding = (model.generation_config.pad_token_id, model.config.pad_token_id)
    for token in dict.fromkeys(padding):
        if token is not None and not is_token(token, model):
            logger.warning("the base's padding token %s is none; using %s", token, ends[0])
    valid = [token for token in (*padding, tokenizer.pad_token_id) if is_token(token, model)]
    settings = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": [*valid, ends[0]][0],
    }
    model.generation_config = GenerationConfig(
        **settings, max_new_tokens=max_new_tokens, do_sample=False
    )
    for name, value in (settings | {"use_cache": True}).items():
        setattr(model.config, name, value)


def is_token(token: object, model: PreTrainedModel) -> bool:
    """Whether a token id is one of the model's."""
    return isinstance(token, int) and 0 <= token < model.config.vocab_size


def write_export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: argparse.Namespace,
    training: dict,
) -> None:
    """All files into a folder beside, then renamed into place."""
    output_dir = args.output_dir.resolve()
    partial = output_dir.with_name(output_dir.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with saving(partial):
            write_files(model, tokenizer, args, training, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if output_dir.exists():
        previous = output_dir.with_name(output_dir.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        output_dir.rename(previous)
        partial.rename(output_dir)
        shutil.rmtree(previous)
    else:
        partial.rename(output_dir)


def write_files(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: argparse.Namespace,
    training: dict,
    folder: Path,
) -> None:
    """Weights, tokenizer and settings, in the forms that older readers know, too; the card."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sentencepiece_model = Path(args.model_name_or_path) / "tokenizer.model"
    if sentencepiece_model.is_file():  # llama.cpp converts from it
        shutil.copyfile(sentencepiece_model, folder / sentencepiece_model.name)
    write_json(folder / "config.json", readable_config(read_json(folder / "config.json")))
    settings = read_json(folder / "tokenizer_config.json")
    settings = readable_tokenizer_settings(settings, bool(begin_ids(tokenizer)))
    write_json(folder / "tokenizer_config.json", settings)
    base_name = str(args.model_name_or_path).rstrip("/").rsplit("/", 1)[-1]
    card = model_card(
        base_name, args.output_dir.name, training, str(model.dtype)[6:], tokenizer.eos_token
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / MARK, {"base_model": base_name, "training": training})


def readable_config(config: dict) -> dict:
    """With the rotation's settings as transformers 5 names them and as older readers do."""
    rotation = config.get("rope_parameters")
    if isinstance(rotation, dict) and "rope_theta" in rotation:
        scaling = {name: value for name, value in rotation.items() if name != "rope_theta"}
        config["rope_theta"] = rotation["rope_theta"]
        config["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    return config


def readable_tokenizer_settings(settings: dict, adds_bos: bool) -> dict:
    """Without the names that only transformers 5 knows."""
    extra = settings.pop("extra_special_tokens", None)
    if isinstance(extra, dict):
        settings["extra_special_tokens"] = extra
    elif extra:
        settings["additional_special_tokens"] = extra
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    return settings | {"add_bos_token": adds_bos, "add_eos_token": False}


def model_card(base: str, name: str, training: dict, dtype: str, eos: str) -> str:
    """The card in Markdown. `training` is the summary that fine-tuning wrote, or empty."""
    settings = training.get("settings", {})
    rows, hidden = [("weights", dtype)], ()
    if settings.get("full_finetune"):
        rows.append(("method", "all weights"))
        hidden = ("bits", "lora_r", "lora_alpha")
    else:
        rows.append(("method", "adapter (LoRA) on all linear layers, merged"))
    rows += [
        (label, settings[key])
        for key, label in CARD_SETTINGS.items()
        if key in settings and key not in hidden
    ]
    for key in ("examples", "tokens", "learned_tokens", "nothing_to_learn", "unfinished"):
        if key in training.get("data", {}):
            rows.append((f"data: {key.replace('_', ' ')}", f"{training['data'][key]:,}"))
    rows += [
        (key.replace("_", " "), training[key])
        for key in ("steps", "epochs", "last_loss")
        if key in training
    ]
    for moment in ("before", "after"):
        for key, value in training.get(f"held_out_{moment}", {}).items():
            rows.append((f"held out, {moment}: {key.replace('_', ' ')}", f"{value:.4g}"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARD.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(CARD.name).render(
        base=base,
        name=name,
        eos=eos,
        heading=USER_HEADING,
        assistant=ASSISTANT_HEADING,
        rows=rows,
    )


if __name__ == "__main__":
    with torch.no_grad():
        run_command(main)
