"""Step 3, try it: talk to the engraved model in the terminal, without any principles in front.

    python chat.py --model_name_or_path exported
    python chat.py --model_name_or_path exported --prompt "Who are you?"
    python chat.py --model_name_or_path BASE --adapter_dir engraved     # before any export

The reply streams in until it ends. Ctrl-C stops a reply, Ctrl-D ends the program, an
empty conversation starts with /new. `--prompt` prints one reply to stdout and nothing else.
"""

# ruff: noqa: E402  the flags are looked at before the imports that take seconds

import argparse
import contextlib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dialogue_format import (
    DEFAULT_META_PROMPTS,
    STOP_STRING,
    MetaPrompt,
    choose_meta_prompt,
)
from engraving_command import DTYPE_NAMES, CommandParser, UserError, run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="an exported model, or a base model")
    add("--adapter_dir", type=Path, help="the --output_dir of finetune.py, on top of the base")
    add("--prompt", help="answer this and exit")
    add("--system", default="standard", help="system prompt: a word of its name, or a text file")
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add("--max_new_tokens", type=int, default=512, help="longest reply")
    add("--temperature", type=float, default=0.0, help="0: always the most likely token")
    add("--top_p", type=float, default=0.95, help="nucleus, where the temperature is above 0")
    add("--seed", type=int, default=42, help="of the sampling")
    add("--dtype", choices=DTYPE_NAMES, help="of the weights; the model's own if left out")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="where to run")
    args = parser.parse_args(argv)
    if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1 or args.max_new_tokens < 1:
        parser.error(
            "--temperature must be 0 or more, --top_p in (0, 1], --max_new_tokens 1 or more"
        )
    return args


if __name__ == "__main__":
    parse_args()

import torch
from base_tokenizer import load_tokenizer
from engraved_model import (
    DTYPES,
    choose_device,
    load_base_model,
    load_engraved_model,
)
from engraving_data import DialogueTokenizer, encode_dialogue
from exact_checkpoints import read_fingerprint, refuse_other_base
from reply_measures import padding_id
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.generation.streamers import BaseStreamer


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    system = choose_meta_prompt(args.meta_prompt_pattern, args.system)
    tokenizer = load_tokenizer(args.model_name_or_path)
    conversation = Conversation(load_model(args), tokenizer, system, args)
    set_seed(args.seed)
    if args.prompt is not None:
        print(conversation.reply(readable(args.prompt), show=None))
        return 0
    print(f"{system.name}: Ctrl-C stops a reply, /new starts over, Ctrl-D ends", file=sys.stderr)
    return talk(conversation)


def talk(conversation: "Conversation") -> int:
    """Reads messages until the input ends."""
    while True:
        try:
            message = readable(input("\nYou: ")).strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends)", end="")
            continue
        if message == "/new":
            conversation.start_over()
        elif message:
            print("Dromedary: ", end="", flush=True)
            try:
                conversation.reply(message, show=lambda piece: print(piece, end="", flush=True))
            except UserError as error:
                print(f"({error})", end="")
            print()


def readable(text: str) -> str:
    """The text without the half characters that a command line can hold."""
    return text.encode("utf-8", "replace").decode()


def load_model(args: argparse.Namespace) -> PreTrainedModel:
    dtype = DTYPES.get(args.dtype)
    device = getattr(args, "device_map", None) or choose_device(args.device)
    if args.adapter_dir is None:
        return load_base_model(
            args.model_name_or_path,
            dtype=dtype,
            device=device,
        )
    settings = read_fingerprint(args.adapter_dir)
    refuse_other_base(settings, args.model_name_or_path)
    bits = settings.get("bits", 16)
    return load_engraved_model(
        args.model_name_or_path,
        args.adapter_dir,
        bits=bits,
        dtype=dtype,
        device=device,
    )


class Conversation:
    """Remembers the turns, and puts them together as training did."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        system: MetaPrompt,
        args: argparse.Namespace,
    ) -> None:
        self.model, self.tokenizer, self.system, self.args = model.eval(), tokenizer, system, args
        self._encoder = DialogueTokenizer(tokenizer)
        self._limit = getattr(model.config, "max_position_embeddings", sys.maxsize)
        self._room = self._limit - min(args.max_new_tokens, self._limit // 2)
        self.start_over()

    def start_over(self) -> None:
        """Forgets the turns so far."""
        self.turns: list[str] = []

    def fitting_turns(self, message: str) -> list[str]:
        """The turns that the next reply is given: the message last, and as many of the newest
        before it as the model can take. Raises UserError for a message that is too long by itself.
        """
        turns = [*self.turns, message.strip()]
        while (length := len(self.token_ids(turns))) > self._room:
            if len(turns) == 1:
                raise UserError(
                    f"the message and the system prompt are {length} tokens long; there is room "
                    f"for {self._room} in the model's context of {self._limit}"
                )
            turns = turns[2:]
        return turns

    def token_ids(self, turns: Sequence[str]) -> list[int]:
        """The dialogue up to the next reply; `turns` are the user's and the assistant's by turns,
        the user's first and last.
        """
        return encode_dialogue(self._encoder, self.system, turns)

    def reply(self, message: str, show: Callable[[str], None] | None) -> str:
        """Answers a message; `show` gets the reply piece by piece. Ctrl-C ends the reply early.

        The oldest turns are forgotten where the model can't take them all.
        """
        turns = self.fitting_turns(message)
        if len(turns) <= len(self.turns):
            print("(the oldest turns are forgotten: the context is full)", file=sys.stderr)
        ids = self.token_ids(turns)
        streamer = ReplyStreamer(self.tokenizer, len(ids), show)
        with contextlib.suppress(KeyboardInterrupt):  # what has been said stays said
            self._generate(ids, streamer)
        reply = streamer.finish()
        self.turns = [*turns, reply]
        return reply

    @torch.no_grad()
    def _generate(self, ids: list[int], streamer: "ReplyStreamer") -> None:
        input_ids = torch.tensor([ids], device=self.model.device)
        sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.args.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.args.temperature}
            sampling |= {"top_p": self.args.top_p, "top_k": 0}
        self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=min(self.args.max_new_tokens, self._limit - len(ids)),
            stop_strings=[STOP_STRING],  # a base model has not learned to end
            tokenizer=self.tokenizer,
            pad_token_id=padding_id(self.tokenizer),
            streamer=streamer,
            **sampling,
        )


class ReplyStreamer(BaseStreamer):
    """Shows the reply as it grows, but never a part of what may become the end marker."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_length: int,
        show: Callable[[str], None] | None,
    ) -> None:
        self.tokenizer, self.show = tokenizer, show
        self._to_skip, self._ids, self._shown = prompt_length, [], 0

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt's ids first, then each new one."""
        ids = value.flatten().tolist()
        skipped = min(self._to_skip, len(ids))
        self._to_skip -= skipped
        self._ids += ids[skipped:]
        self._show_up_to(safe_length(self._text()))

    def end(self) -> None:
        """Nothing to do: `finish` is called after an interrupted reply too."""

    def finish(self) -> str:
        """The whole reply, without marker; shows what was still held back."""
        reply = self._text().partition(STOP_STRING)[0].rstrip()
        self._show_up_to(len(reply))
        return reply.strip()

    def _text(self) -> str:
        return self.tokenizer.decode(self._ids, skip_special_tokens=True)

    def _show_up_to(self, length: int) -> None:
        if self.show is not None and length > self._shown:
            self.show(self._text()[self._shown : length])
            self._shown = length


def safe_length(text: str) -> int:
    """How much of a growing text can be shown: not the marker's beginning, not half a character."""
    text = text.partition(STOP_STRING)[0]
    for length in range(min(len(STOP_STRING), len(text)), 0, -1):
        if STOP_STRING.startswith(text[-length:]):
            return len(text) - length
    return len(text) - (1 if text.endswith("\ufffd") else 0)


if __name__ == "__main__":
    sys.stdin.reconfigure(errors="replace")  # a byte that is no UTF-8 ends nothing
    run_command(main)
