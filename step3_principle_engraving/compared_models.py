"""The models that a comparison holds side by side: the base, with principles or without, and the
engraved one.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from base_tokenizer import load_tokenizer
from dialogue_format import MetaPrompt
from engraved_model import (
    DTYPES,
    choose_device,
    load_base_model,
    load_engraved_model,
)
from engraving_command import UserError
from engraving_data import DialogueTokenizer, encode_dialogue
from exact_checkpoints import FINGERPRINT
from plain_files import read_json, read_text
from transformers import AutoConfig, PreTrainedModel

BASE, WITH_PRINCIPLES, ENGRAVED = "base", "base_with_principles", "engraved"
READABLE = {BASE: "base", WITH_PRINCIPLES: "base + principles", ENGRAVED: "engraved"}
# How the principle prompt's own dialogue goes on.
PRINCIPLES_END, PRINCIPLES_USER, PRINCIPLES_REPLY = "User:", "\n\nUser: ", "\n\nWatson:"


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base_model", required=True, help="the model before")
    add("--engraved_model", help="the exported model")
    add("--adapter_dir", type=Path, help="or the --output_dir of finetune.py, on top of the base")
    add("--bits", type=int, choices=(4, 16), help="4: NF4; left out: as the adapter was trained")
    add("--dtype", choices=sorted(DTYPES), help="of the weights; the models' own if left out")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="where to run")
    add("--device_map", choices=("auto",), help="auto: spread each model over all GPUs")


def check_model_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses flags that contradict each other."""
    if (args.engraved_model is None) == (args.adapter_dir is None):
        parser.error("one of --engraved_model and --adapter_dir is needed, not both")


def model_folder(args: argparse.Namespace, side: str) -> str:
    """Where a model's tokenizer and configuration lie; an adapter's are its base's."""
    known = {**getattr(args, "more_models", {}), ENGRAVED: args.engraved_model}
    return known.get(side) or args.base_model


def tokenizer_of(args: argparse.Namespace, side: str) -> DialogueTokenizer:
    """The tokenizer of a model."""
    return DialogueTokenizer(load_tokenizer(model_folder(args, side)))


def context_length(args: argparse.Namespace, side: str) -> int:
    """How many tokens a model takes at once."""
    config = AutoConfig.from_pretrained(model_folder(args, side)).get_text_config()
    return getattr(config, "max_position_embeddings", sys.maxsize)


def load_model(args: argparse.Namespace, side: str) -> PreTrainedModel:
    """A model in evaluation mode. Drop the one before first: both might not fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # --device_map auto looks at what the driver calls free
    where = {
        "bits": args.bits or _trained_bits(args.adapter_dir),
        "dtype": DTYPES.get(args.dtype),
        "device": args.device_map or choose_device(args.device),
    }
    if side == ENGRAVED and args.adapter_dir is not None:
        return load_engraved_model(args.base_model, args.adapter_dir, **where).eval()
    return load_base_model(model_folder(args, side), **where).eval()


def _trained_bits(adapter_dir: Path | None) -> int:
    if adapter_dir is None or not (adapter_dir / FINGERPRINT).is_file():
        return 16
    return read_json(adapter_dir / FINGERPRINT)["bits"]


@dataclass(frozen=True)
class EngravedDialogue:
    """The dialogue of the training, under a system prompt."""

    system: MetaPrompt

    def encode(self, tokenizer: DialogueTokenizer, turns: Sequence[str]) -> list[int]:
        """Everything up to the next reply; `turns` are the user's and the assistant's by turns."""
        return encode_dialogue(tokenizer, self.system, turns)

    def encode_reply(self, tokenizer: DialogueTokenizer, reply: str) -> list[int]:
        """A reply, without its end."""
        return tokenizer.encode_continuation(reply)


@dataclass(frozen=True)
class PrinciplesDialogue:
    """The principle prompt's own dialogue, where the assistant replies without thoughts."""

    principles: str

    def encode(self, tokenizer: DialogueTokenizer, turns: Sequence[str]) -> list[int]:
        """Everything up to the next reply; `turns` are the user's and the assistant's by turns."""
        text = f"{self.principles} {turns[0]}{PRINCIPLES_REPLY}"
        for reply, message in zip(turns[1::2], turns[2::2], strict=True):
            text += f" {reply}{PRINCIPLES_USER}{message}{PRINCIPLES_REPLY}"
        return tokenizer.encode_start(text)

    def encode_reply(self, tokenizer: DialogueTokenizer, reply: str) -> list[int]:
        """A reply, without its end; it stands on the line of its marker."""
        return tokenizer.encode_continuation(" " + reply)


def read_principles(path: Path) -> str:
    """A principle prompt; UserError unless it ends where the user's words follow."""
    text = read_text(path).rstrip()
    if not text.endswith(PRINCIPLES_END):
        raise UserError(f"the principle prompt {path} must end with the line '{PRINCIPLES_END}'")
    return text
