"""Step 3, show it: talk to the engraved model in a browser, without any principles in front.

    pip install -r ../requirements-demo.txt
    python chat_page.py --model_name_or_path exported
    python chat_page.py --model_name_or_path BASE --adapter_dir engraved    # before any export

Opens the page on this machine alone, at http://127.0.0.1:7860; `--host 0.0.0.0` shows it to the
network, `--share` to the whole internet through gradio's servers. Replies stream in and can be
stopped; every browser tab has a conversation of its own, and the model answers one after another.
"""

import argparse
import logging
import math
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_tokenizer import load_tokenizer
from chat import Conversation, load_model
from dialogue_format import DEFAULT_META_PROMPTS, MetaPrompt, load_meta_prompts
from engraving_command import DTYPE_NAMES, CommandParser, UserError, run_command
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

if TYPE_CHECKING:
    import gradio

EXAMPLES = (
    "Who are you?",
    "Why is the sky blue?",
    "Write a short poem about rain.",
    "How do I prepare for a job interview?",
)
LONGEST_REPLY = 2048  # tokens that the page's slider goes up to


def parse_args() -> argparse.Namespace:
    parser = CommandParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="an exported model, or a base model")
    add("--adapter_dir", type=Path, help="the --output_dir of finetune.py, on top of the base")
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add("--max_new_tokens", type=int, default=512, help="longest reply, at first")
    add("--temperature", type=float, default=0.7, help="at first; 0: always the likeliest token")
    add("--top_p", type=float, default=0.95, help="nucleus, at first")
    add("--seed", type=int, default=42, help="of the sampling")
    add("--dtype", choices=DTYPE_NAMES, help="of the weights; the model's own if left out")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="where to run")
    add("--device_map", choices=("auto",), help="auto: spread the model over all GPUs")
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=int, default=7860, help="port to listen at")
    add("--share", action="store_true", help="a public address, through gradio's servers")
    args = parser.parse_args()
    if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        parser.error("--temperature must be 0 or more, --top_p in (0, 1]")
    if not 1 <= args.max_new_tokens <= LONGEST_REPLY or not 0 < args.port < 65536:
        parser.error(f"--max_new_tokens must be 1 to {LONGEST_REPLY}, --port 1 to 65535")
    return args


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    require_gradio()
    systems = {prompt.name: prompt for prompt in load_meta_prompts(args.meta_prompt_pattern)}
    tokenizer = load_tokenizer(args.model_name_or_path)
    model = load_model(args)
    set_seed(args.seed)
    page = build_page(args, Assistant(model, tokenizer, systems))
    try:
        page.launch(server_name=args.host, server_port=args.port, share=args.share)
    except OSError as error:
        raise UserError(f"{error}; give another --port") from error
    return 0


def require_gradio() -> None:
    """Raises UserError where gradio is missing."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is reported anywhere
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        remedy = "`pip install -r requirements-demo.txt` installs it"
        raise UserError(f"the chat page needs gradio ({error}); {remedy}") from error


class Assistant:
    """One model for all browser tabs; a conversation's turns lie in its tab."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        systems: dict[str, MetaPrompt],
    ) -> None:
        self.model, self.tokenizer, self.systems = model, tokenizer, systems
        self._one_at_a_time = threading.Lock()

    def reply(
        self,
        message: str,
        history: Sequence[dict[str, Any]],
        system: str,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
    ) -> Iterator[str]:
        """The reply so far, again and again as it grows. Closing the iterator stops the model."""
        import gradio

        settings = argparse.Namespace(
            temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens
        )
        try:
            conversation = Conversation(self.model, self.tokenizer, self.systems[system], settings)
            conversation.turns = turns_of(history)
            if len(conversation.fitting_turns(message)) <= len(conversation.turns):
                gradio.Info("The model's context is full: it no longer sees the oldest turns.")
            yield from self._growing_reply(conversation, message)
        except UserError as error:
            # Not gradio.Error: the message box would stay locked.
            gradio.Warning(str(error))
            yield ""

    def _growing_reply(self, conversation: Conversation, message: str) -> Iterator[str]:
        pieces: queue.SimpleQueue = queue.SimpleQueue()
        stopped = threading.Event()

        def show(piece: str) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt  # as in a terminal: what has been said stays said
            pieces.put(piece)

        def work() -> None:
            end = None
            try:
                with self._one_at_a_time:
                    conversation.reply(message, show)
            except Exception as error:  # raised again where the page can show it
                end = error
            pieces.put(end)

        threading.Thread(target=work, daemon=True).start()
        text = ""
        try:
            while isinstance(piece := pieces.get(), str):
                text += piece
                yield text
            if piece is not None:
                raise piece
        finally:
            stopped.set()


def turns_of(history: Sequence[dict[str, Any]]) -> list[str]:
    """The user's messages and the replies by turns; exchanges without a reply are left out."""
    texts = [text_of(message["content"]) for message in history]
    pairs = zip(texts[::2], texts[1::2], strict=False)
    return [text for pair in pairs if all(pair) for text in pair]


def text_of(content: str | Sequence[dict[str, str]]) -> str:
    """A message's text, which gradio keeps in parts."""
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return "".join(parts).strip()


def build_page(args: argparse.Namespace, assistant: Assistant) -> "gradio.ChatInterface":
    """The page: conversation, message box, settings, examples."""
    import gradio

    names = list(assistant.systems)
    first = next((name for name in names if "standard" in name), names[0])
    return gradio.ChatInterface(
        assistant.reply,
        title="Dromedary",
        description=f"{args.adapter_dir or args.model_name_or_path}, without principles in front.",
        additional_inputs=[
            gradio.Dropdown(names, value=first, label="System prompt"),
            gradio.Slider(0, 2, args.temperature, step=0.05, label="Temperature"),
            gradio.Slider(0.05, 1, args.top_p, step=0.05, label="Top-p"),
            gradio.Slider(1, LONGEST_REPLY, args.max_new_tokens, step=1, label="Longest reply"),
        ],
        additional_inputs_accordion="Settings",
        chatbot=gradio.Chatbot(label="Dromedary", buttons=["copy", "copy_all"]),
        examples=[[question] for question in EXAMPLES],
        stop_btn="Stop",
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
    )


if __name__ == "__main__":
    run_command(main)
