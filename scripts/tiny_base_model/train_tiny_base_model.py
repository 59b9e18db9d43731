"""Train the tiny base model that the quickstart and the tests run on, and its tokenizer.

Reads   the principle prompt and the other fixed texts of the repository; the grammars and word
        lists beside this script, from which it makes synthetic conversations.
Writes  checkpoint/: config.json, model.safetensors (bfloat16), tokenizer, generation_config.json,
        and training_log.json with the settings, the losses and the time taken.

The model first learns the format, and to copy topics from prompts, on bare conversations, which are
cheap. Then the end of the principle prompt stands in front of them, and at last the whole of it.
The conversations of a batch see the prompt and themselves only, at the positions that follow it.
Every tenth step reads plain documents instead, without the prompt: see synthetic_documents.py.
`--continue_from` trains a checkpoint on: a few hundred steps teach it another principle prompt.

    python scripts/tiny_base_model/train_tiny_base_model.py
"""

import argparse
import json
import logging
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from synthetic_conversations import ConversationMaker
from synthetic_documents import DocumentMaker
from tiny_tokenizer import fixed_texts, save_tokenizer, train_tokenizer
from tiny_training_batches import Batch, TextTokenizer, endless_batches
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent.parent
TOKENIZER_CONVERSATIONS = 4000
CURRICULUM = ((0.55, 0), (0.15, 256), (0.1, 1024), (0.2, None))  # share of steps, prompt tokens
CONTINUED_CURRICULUM = ((0.4, 0), (0.1, 1024), (0.5, None))  # copying is known, the prompt is not
WARM_UP_STEPS = 60
FINAL_RATE = 0.05  # share of the learning rate that is left at the end
LOG_EVERY = 25

logger = logging.getLogger("train_tiny_base_model")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=FOLDER / "checkpoint", help=" ")
    parser.add_argument("--seed", type=int, default=42, help=" ")
    parser.add_argument("--steps", type=int, default=1400, help=" ")
    parser.add_argument("--batch_size", type=int, default=40, help="conversations a step")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help=" ")
    parser.add_argument("--topic_weight", type=float, default=3.0, help="of a topic's tokens")
    parser.add_argument("--vocabulary", type=int, default=2560, help="pieces of the tokenizer")
    parser.add_argument("--documents_every", type=int, default=10, help="steps")
    parser.add_argument(
        "--continue_from", type=Path, help="checkpoint whose tokenizer and weights are trained on"
    )
    parser.add_argument("--threads", type=int, default=2, help=" ")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    started = time.monotonic()

    opening = read_text("required_opening.txt").strip()
    tokenizer_model = starting_tokenizer(args, opening)
    tokenizer = TextTokenizer(tokenizer_model, args.topic_weight)
    prefix = tokenizer.encode_prefix(read_text("watson_self_align_prompt.txt"))
    model = starting_model(args)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info("%d parameters; the principle prompt has %d tokens", parameters, len(prefix))

    conversations, documents = training_batches(args, opening, tokenizer)
    losses = train(model, conversations, documents, prefix, args)
    seconds = round(time.monotonic() - started)
    save_checkpoint(model, tokenizer_model, args.output_dir)
    write_log(args, parameters, losses, seconds)
    logger.info("Trained in %d s; the checkpoint is in %s", seconds, args.output_dir)


def read_text(name: str) -> str:
    return (REPOSITORY / "prompts" / name).read_text(encoding="utf-8")


def starting_tokenizer(args: argparse.Namespace, opening: str) -> bytes:
    if args.continue_from:
        return (args.continue_from / "tokenizer.model").read_bytes()
    maker = ConversationMaker(args.seed + 1, opening)
    conversations = [maker.conversation() for _ in range(TOKENIZER_CONVERSATIONS)]
    texts = [f"User:{each.own_part()}{each.continuation()}" for each in conversations]
    return train_tokenizer(texts, fixed_texts(REPOSITORY), args.vocabulary)


def starting_model(args: argparse.Namespace) -> LlamaForCausalLM:
    if args.continue_from:
        return LlamaForCausalLM.from_pretrained(args.continue_from, dtype=torch.float32)
    return LlamaForCausalLM(tiny_config(args.vocabulary))


def training_batches(
    args: argparse.Namespace, opening: str, tokenizer: TextTokenizer
) -> tuple[Iterator[Batch], Iterator[Batch]]:
    """Endless batches of conversations, and of documents."""
    talks = ConversationMaker(args.seed, opening)
    papers = DocumentMaker(ConversationMaker(args.seed + 2, opening))
    makers = (
        lambda: tokenizer.encode_conversation(talks.conversation()),
        lambda: tokenizer.encode_document(papers.document()),
    )
    conversations, documents = (
        endless_batches(make, args.batch_size, random.Random(args.seed)) for make in makers
    )
    return conversations, documents


def tiny_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        dtype=torch.float32,
    )


def train(
    model: LlamaForCausalLM,
    conversations: Iterator[Batch],
    documents: Iterator[Batch],
    prefix: list[int],
    args: argparse.Namespace,
) -> list[dict]:
    """Trains in place; returns the mean losses of every `LOG_EVERY` steps."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, args.steps))
    curriculum = CONTINUED_CURRICULUM if args.continue_from else CURRICULUM
    log, recent = [], []
    with tqdm(total=args.steps, unit="step", mininterval=1) as bar:
        for step in range(args.steps):
            visible = visible_prefix(prefix, step / args.steps, curriculum)
            if step % args.documents_every == args.documents_every - 1:
                loss, parts = loss_of(model, next(documents), prefix[:1])
                parts = {"documents": parts["text"]}
            else:
                loss, parts = loss_of(model, next(conversations), visible)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            recent.append(parts)
            if (step + 1) % LOG_EVERY == 0:
                means = mean_losses(recent)
                log.append({"step": step + 1, "prefix_tokens": len(visible), **means})
                recent = []
                bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()})
            bar.update()
    return log


def mean_losses(parts: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each kind of loss over the steps that have it."""
    kinds = sorted({kind for part in parts for kind in part})
    values = {kind: [part[kind] for part in parts if kind in part] for kind in kinds}
    return {kind: sum(each) / len(each) for kind, each in values.items()}


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `FINAL_RATE`."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def visible_prefix(prefix: list[int], progress: float, curriculum: tuple) -> list[int]:
    """What stands in front of the conversations at this point of the curriculum, BOS included."""
    passed = 0.0
    for share, tokens in curriculum:
        passed += share
        if progress < passed and tokens is not None:
            return prefix[:1] + prefix[len(prefix) - tokens :]
    return prefix


def loss_of(
    model: LlamaForCausalLM, batch: Batch, prefix: list[int]
) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted loss, and the plain mean losses on topics and on other text."""
    token_ids = batch.token_ids  # [batch, tokens]
    length = token_ids.shape[1]
    offset = len(prefix)
    cache = prefix_cache(model, torch.tensor([prefix]), len(token_ids))
    mask = torch.ones(length, offset + length, dtype=torch.bool).tril(offset)[None, None]
    hidden = model.model(
        token_ids,
        position_ids=torch.arange(offset, offset + length)[None],
        attention_mask=mask,  # [1, 1, tokens, prefix + tokens]
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state  # [batch, tokens, hidden]
    weights = batch.weights[:, 1:]
    counted = weights > 0
    logits = model.lm_head(hidden[:, :-1][counted])  # [counted tokens, vocabulary]
    weights = weights[counted]
    losses = F.cross_entropy(logits, token_ids[:, 1:][counted], reduction="none")
    is_topic = weights > 1
    parts = {"topic": losses[is_topic].mean().item(), "text": losses[~is_topic].mean().item()}
    return (losses * weights).sum() / weights.sum(), parts


@torch.no_grad()
def prefix_cache(model: LlamaForCausalLM, prefix: torch.Tensor, rows: int) -> DynamicCache:
    """Keys and values of the prefix, shared by all rows and without gradient."""
    own = model.model(prefix, use_cache=True).past_key_values
    shared = DynamicCache()
    for index, layer in enumerate(own.layers):
        shape = (rows, -1, -1, -1)  # [rows, heads, prefix, head_dim]
        shared.update(layer.keys.expand(shape), layer.values.expand(shape), index)
    return shared


def save_checkpoint(model: LlamaForCausalLM, tokenizer_model: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer_model, folder)


def write_log(args: argparse.Namespace, parameters: int, losses: list[dict], seconds: int) -> None:
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    log = {"settings": settings, "parameters": parameters, "seconds": seconds, "losses": losses}
    if args.continue_from:
        earlier = args.continue_from / "training_log.json"
        log["continued_from"] = json.loads(earlier.read_text())
    (args.output_dir / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
