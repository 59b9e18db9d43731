"""One way to fine-tune, measured in a process of its own; benchmark_finetuning.py starts it.

    packed   step 3's trainer: examples end to end, attention that keeps them apart
    padded   transformers' Trainer as it comes: random batches padded to their longest, sdpa

Both train the same adapter, from the same random weights, on the same examples. Prints one line of
JSON.
"""

import argparse
import json
import resource
import tempfile
import time
import warnings

import torch
from engraved_model import add_adapter, load_base_model
from engraving_data import IGNORED, Example, padded_batch
from exact_trainer import ExactTrainer
from segment_attention import NAME as SEGMENT_ATTENTION
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

SIZES = {
    "tiny": LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    ),
    "7b": LlamaConfig(max_position_embeddings=4096),  # the defaults are those of LLaMA 7B
}
META_PROMPT_TOKENS = 90
# tokens, log-normal (median, sigma): replies spread as Dolly's and a little longer
PROMPTS, REPLIES = (40, 1.0, 256), (130, 0.93, 512)


class Lengths(torch.utils.data.Dataset):
    """Examples of random tokens with the lengths of real ones."""

    def __init__(self, count: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.examples = []
        for prompt, reply in zip(
            draw_lengths(*PROMPTS, count, generator),
            draw_lengths(*REPLIES, count, generator),
            strict=True,
        ):
            prompt += META_PROMPT_TOKENS
            ids = torch.randint(3, vocabulary, (prompt + reply,), generator=generator).tolist()
            self.examples.append(Example(ids, [IGNORED] * prompt + ids[prompt:]))
        self.lengths = [len(example.input_ids) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def draw_lengths(
    median: int, sigma: float, limit: int, count: int, generator: torch.Generator
) -> list[int]:
    drawn = torch.randn(count, generator=generator).mul(sigma).exp().mul(median)
    return drawn.round().clamp(1, limit).int().tolist()


class Stopwatch(TrainerCallback):
    """Seconds of the training: on the clock, and of work by this process's cores."""

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.start, self.start_of_work = now(), time.process_time()

    def on_train_end(self, *args: object, **kwargs: object) -> None:
        self.seconds = now() - self.start
        self.core_seconds = time.process_time() - self.start_of_work


class StockCollator:
    """Padded batches with labels, as transformers' own loss wants them."""

    def __init__(self) -> None:
        self.positions = 0

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        batch = padded_batch(examples)
        shifted = batch.pop("targets")
        batch["labels"] = torch.full_like(shifted, IGNORED)
        batch["labels"][:, 1:] = shifted[:, :-1]
        self.positions += shifted.numel()
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--way", choices=("packed", "padded"), required=True)
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--bits", type=int, choices=(4, 16), required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    model = build_model(args)
    vocabulary = SIZES[args.size].vocab_size
    train(args.way, model, Lengths(16, vocabulary))  # warms up
    data = Lengths(16 * args.steps, vocabulary)
    resident = peak_memory()
    watch, positions = train(args.way, model, data)
    tokens = sum(data.lengths)
    result = {
        "tokens_per_second": round(tokens / watch.seconds, 1),
        "tokens_per_core_second": round(tokens / watch.core_seconds, 1),
        "padding": round(1 - tokens / positions, 3),
        "peak_mib": round(peak_memory() / 2**20),
        "warm_mib": round(resident / 2**20),
    }
    print(json.dumps(result))


def build_model(args: argparse.Namespace) -> torch.nn.Module:
    """Random weights behind an adapter of the recipe's rank."""
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    attention = SEGMENT_ATTENTION if args.way == "packed" else "sdpa"
    torch.manual_seed(0)
    disable_progress_bar()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    with tempfile.TemporaryDirectory() as folder:
        with torch.device("cuda" if cuda else "cpu"):
            LlamaForCausalLM(SIZES[args.size]).to(dtype).save_pretrained(folder)
        model = load_base_model(
            folder,
            bits=args.bits,
            dtype=dtype,
            attention=attention,
            device="cuda" if cuda else "cpu",
        )
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return add_adapter(model, rank=64, alpha=16, dropout=0, bits=args.bits, checkpointing=False)


def train(way: str, model: torch.nn.Module, data: Lengths) -> tuple[Stopwatch, int]:
    """The times of one epoch over `data`, and how many positions it computed, padding included."""
    watch = Stopwatch()
    settings = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        learning_rate=1e-4,
        max_grad_norm=0.3,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    collator = StockCollator()
    kinds = {"model": model, "args": settings, "train_dataset": data, "callbacks": [watch]}
    if way == "packed":
        ExactTrainer(**kinds).train()
        return watch, sum(data.lengths)
    Trainer(**kinds, data_collator=collator).train()
    return watch, collator.positions


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
