"""Step 3, measure: does the engraved model do without principles what the base does with them?

    python compare_engraving.py --base_model BASE --engraved_model exported \\
        --training_file merged.json --held_out_file held_out.json \\
        --principle_responses 'unseen_1shards_*.jsonl,identity_1shards_*.jsonl' \\
        --output_file comparison.json

Asks the base and the engraved model prompts that training has not seen, under a short system
prompt, and who they are, under one that names nobody: greedily, and drawn. The row of the base with
principles comes from response shards of step 2's generator on the same prompts. Prints a table with
95 % confidence intervals and controls; writes comparison.json and, beside it, comparison.html with
the replies side by side.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from compared_models import (
    BASE,
    ENGRAVED,
    READABLE,
    WITH_PRINCIPLES,
    EngravedDialogue,
    PrinciplesDialogue,
    add_model_flags,
    check_model_flags,
    context_length,
    load_model,
    read_principles,
    tokenizer_of,
)
from comparison_inputs import (
    first_reply,
    read_asked,
    read_held_out,
    read_neutral_system,
    read_principle_replies,
    refuse_seen_prompts,
)
from comparison_report import as_table, write_page
from dialogue_format import DEFAULT_META_PROMPTS, MetaPrompt, choose_meta_prompt, user_message
from engraving_command import CommandParser, UserError, run_command
from log_likelihoods import Continuation, log_likelihoods
from plain_files import write_json
from reply_figures import Asked, Replies, measure_loss, measure_replies
from reply_generation import Sampling, generate_replies
from training_records import TrainingRecord
from transformers import PreTrainedModel

logger = logging.getLogger("compare_engraving")

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"
COMPARISON = PROMPTS / "comparison"
Loss = tuple[float, tuple[float, float]]  # nats a token, and the 95 % interval
REPLY_TOKENS = 512  # of a held-out reply that count: as many as training takes


@dataclass(frozen=True)
class Inputs:
    """What all models are asked, and what the base answered with its principles."""

    unseen: list[Asked]
    identity: list[Asked]
    held_out: list[TrainingRecord]
    system: MetaPrompt
    neutral: MetaPrompt
    principles: str | None
    replies_with_principles: Replies | None


def comma_list(text: str) -> list[str]:
    """`a,b` as ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def named_folders(text: str) -> dict[str, str]:
    """`verbose=a,concise=b` as {"verbose": "a", "concise": "b"}."""
    pairs = [part.partition("=") for part in comma_list(text)]
    if not all(name and folder and name not in READABLE for name, _, folder in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER,… with new names")
    return {name: folder for name, _, folder in pairs}


def parse_args() -> argparse.Namespace:
    parser = CommandParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add_model_flags(parser)
    add("--more_models", type=named_folders, default={}, help="further rows: NAME=EXPORTED,…")
    add("--prompts_file", type=Path, default=COMPARISON / "unseen_prompts.jsonl", help="to ask")
    add("--identity_file", type=Path, default=COMPARISON / "identity_questions.jsonl", help="also")
    add(
        "--training_file", type=Path, help="what was trained on: prompts that are there are refused"
    )
    add(
        "--held_out_file", type=Path, help="training records that were not trained on, for the loss"
    )
    add("--principle_responses", type=comma_list, help="step 2's response shards: globs")
    add(
        "--principle_prompt_file",
        type=Path,
        default=PROMPTS / "watson_self_align_prompt.txt",
        help="what those responses were generated behind",
    )
    add("--output_file", type=Path, required=True, help="JSON to write, and .html beside it")
    add("--system", default="standard", help="system prompt: a word of its name, or a text file")
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add(
        "--neutral_system",
        type=Path,
        default=COMPARISON / "neutral_system.txt",
        help="system prompt of the identity questions",
    )
    add("--max_new_tokens", type=int, default=512, help="longest reply")
    add("--temperature", type=float, default=0.7, help="of the drawn replies; 0: greedy ones only")
    add("--top_p", type=float, default=0.95, help="nucleus of the drawn replies")
    add("--batch_size", type=int, default=64, help="replies generated at once")
    add("--limit", type=int, help="only the first prompts of each file")
    add("--seed", type=int, default=42, help="of the drawn replies and the intervals")
    args = parser.parse_args()
    check_model_flags(parser, args)
    check_numbers(parser, args)
    return args


def check_numbers(parser: CommandParser, args: argparse.Namespace) -> None:
    if not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        parser.error("--temperature must be 0 or more, --top_p in (0, 1]")
    whole = (args.max_new_tokens, args.batch_size, 1 if args.limit is None else args.limit)
    if min(whole) < 1 or args.seed < 0:
        parser.error(
            "--max_new_tokens, --batch_size and --limit must be 1 or more, --seed 0 or more"
        )
    if args.output_file.suffix != ".json" or not args.output_file.parent.is_dir():
        parser.error(f"--output_file must end with .json and lie in a folder: {args.output_file}")


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    inputs = read_inputs(args)
    sides = (BASE, ENGRAVED, *args.more_models)
    prompts = {side: encode_prompts(args, side, inputs) for side in sides}
    held_out = encode_held_out(args, sides, inputs)

    replies: dict[str, dict[str, Replies]] = {}
    losses: dict[str, Loss] = {}
    for side in sides:
        model = load_model(args, side)
        replies[side] = reply_to(args, side, model, prompts[side], len(inputs.unseen))
        losses |= measure_losses(args, side, model, held_out)
        if side == BASE and inputs.replies_with_principles is not None:
            replies[WITH_PRINCIPLES] = {"greedy": inputs.replies_with_principles}
        del model  # the next one may need its memory
    comparison = compare(args, inputs, replies, losses)
    print(as_table(comparison))
    asked = {"unseen": inputs.unseen, "identity": inputs.identity}
    write_page(args.output_file.with_suffix(".html"), comparison, asked, replies)
    write_json(args.output_file, comparison)
    return 0


def read_inputs(args: argparse.Namespace) -> Inputs:
    """Everything that is asked; refused where training saw it, or where answers are missing."""
    unseen = read_asked(args.prompts_file, "topic", args.limit)
    identity = read_asked(args.identity_file, "names", args.limit)
    held_out = read_held_out(args.held_out_file, args.limit) if args.held_out_file else []
    if args.training_file is None:
        logger.warning("no --training_file: not checked that training saw none of these prompts")
    else:
        asked = {args.prompts_file: unseen, args.identity_file: identity}
        refuse_seen_prompts(args.training_file, {**asked, args.held_out_file: held_out})
    principles = replies = None
    if args.principle_responses:
        principles = read_principles(args.principle_prompt_file)
        replies = read_principle_replies(args.principle_responses, unseen, identity)
    return Inputs(
        unseen,
        identity,
        held_out,
        choose_meta_prompt(args.meta_prompt_pattern, args.system),
        read_neutral_system(args.neutral_system),
        principles,
        replies,
    )


def encode_prompts(args: argparse.Namespace, side: str, inputs: Inputs) -> list[list[int]]:
    """Token ids of the unseen prompts and then of the identity questions for one model."""
    tokenizer = tokenizer_of(args, side)
    parts = ((inputs.system, inputs.unseen), (inputs.neutral, inputs.identity))
    prompts = [
        EngravedDialogue(system).encode(tokenizer, [item.message])
        for system, asked in parts
        for item in asked
    ]
    room = context_length(args, side) - args.max_new_tokens
    for ids, item in zip(prompts, inputs.unseen + inputs.identity, strict=True):
        if len(ids) > room:
            raise UserError(
                f"'{item.instruction[:60]}' has {len(ids)} tokens, and the {side} model's context "
                f"leaves {room} beside --max_new_tokens {args.max_new_tokens}"
            )
    return prompts


def encode_held_out(
    args: argparse.Namespace, sides: Sequence[str], inputs: Inputs
) -> dict[str, list[Continuation]]:
    """For each row of the table, the held-out prompts and replies that fit every model."""
    dialogues: dict[str, Any] = dict.fromkeys(sides, EngravedDialogue(inputs.system))
    if inputs.principles is not None:
        dialogues[WITH_PRINCIPLES] = PrinciplesDialogue(inputs.principles)
    encoded: dict[str, list[Continuation]] = {}
    fits = [True] * len(inputs.held_out)
    for side, dialogue in dialogues.items():
        tokenizer, limit = tokenizer_of(args, side), context_length(args, side)
        encoded[side] = []
        for index, record in enumerate(inputs.held_out):
            message = user_message(record.instruction, record.input)
            prompt = dialogue.encode(tokenizer, [message])
            text = dialogue.encode_reply(tokenizer, first_reply(record))[:REPLY_TOKENS]
            encoded[side].append(Continuation(prompt, text))
            fits[index] &= len(prompt) + len(text) <= limit
    if not all(fits):
        logger.warning("held-out loss without %d records: too long", fits.count(False))
    return {side: list(compress(rows, fits)) for side, rows in encoded.items()}


def reply_to(
    args: argparse.Namespace,
    side: str,
    model: PreTrainedModel,
    prompts: list[list[int]],
    unseen: int,
) -> dict[str, Replies]:
    """Replies by how their tokens are chosen; the first `unseen` prompts are the ordinary ones."""
    modes: dict[str, Sampling | None] = {"greedy": None}
    if args.temperature > 0:
        modes["sampled"] = Sampling(args.temperature, args.top_p, args.seed)
    replies = {}
    for mode, sampling in modes.items():
        found = generate_replies(
            model,
            tokenizer_of(args, side).tokenizer,
            prompts,
            sampling=sampling,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.batch_size,
            label=f"{READABLE.get(side, side)}, {mode}",
        )
        replies[mode] = Replies(found[:unseen], found[unseen:])
    return replies


def measure_losses(
    args: argparse.Namespace,
    side: str,
    model: PreTrainedModel,
    held_out: dict[str, list[Continuation]],
) -> dict[str, Loss]:
    """The held-out loss of a model's own row; the base's with principles, too."""
    losses = {}
    for row in (BASE, WITH_PRINCIPLES) if side == BASE else (side,):
        if texts := held_out.get(row):
            label = f"{READABLE.get(row, row)}, held out"
            values = log_likelihoods(model, texts, args.batch_size, label)
            losses[row] = measure_loss(values, [len(text.text) for text in texts], args.seed)
    return losses


def compare(
    args: argparse.Namespace,
    inputs: Inputs,
    replies: dict[str, dict[str, Replies]],
    losses: dict[str, Loss],
) -> dict[str, Any]:
    """All figures, in the form of comparison.json."""
    tables = {
        mode: {
            row: measure_replies(inputs.unseen, inputs.identity, by_mode[mode], args.seed)
            for row, by_mode in replies.items()
            if mode in by_mode
        }
        for mode in ("greedy", "sampled")
    }
    for row, (loss, interval) in losses.items():
        if row in tables["greedy"]:
            tables["greedy"][row]["held_out_loss"] = loss
            tables["greedy"][row]["intervals"]["held_out_loss"] = interval
    return {
        "rows": tables["greedy"],
        "sampled": tables["sampled"],
        "held_out_replies": len(inputs.held_out),
        "settings": {name: str(value) for name, value in vars(args).items()},
    }


if __name__ == "__main__":
    run_command(main)
