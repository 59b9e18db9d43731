"""Measure what step 2 makes of the tiny base model, on prompts that its training never saw.

Writes held-out prompts, runs the two scripts of step 2 on them with the real principle prompt, and
counts: continuations that the merge keeps, continuations that ended by themselves, and replies that
name the topic of their prompt. Once for prompts in wordings that training never used, with topics
drawn as in training (half of them have a word made up afresh); and once for prompts whose nouns
and adjectives are new, too. Prints two tables and writes the figures as JSON.

    python scripts/tiny_base_model/measure_tiny_base_model.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from synthetic_conversations import ConversationMaker

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent.parent
STEP2 = REPOSITORY / "step2_principle_driven_self_alignment"
OPENING = (REPOSITORY / "prompts" / "required_opening.txt").read_text(encoding="utf-8").strip()
COUNTS = ("prompts", "kept", "ended by itself", "names the topic", "names every topic")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model_dir", type=Path, default=FOLDER / "checkpoint", help=" ")
    parser.add_argument("--output_file", type=Path, default=FOLDER / "measurement.json", help=" ")
    parser.add_argument("--prompts", type=int, default=256, help="number of held-out prompts")
    parser.add_argument("--prompt_seed", type=int, default=1000, help="draws the prompts")
    parser.add_argument("--sampling_seed", type=int, default=42, help="draws the continuations")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    started = time.monotonic()
    counts = {}
    for title, held_out_words in (("new wordings", False), ("new wordings and words", True)):
        counts[title] = measure(args, held_out_words)
    for title, table in counts.items():
        print(f"\n{title}")
        print_table(table)
    seconds = round(time.monotonic() - started)
    settings = {"prompt_seed": args.prompt_seed, "sampling_seed": args.sampling_seed}
    result = {"settings": settings, "seconds": seconds, "counts": counts}
    args.output_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{seconds} s; the figures are in {args.output_file}")


def measure(args: argparse.Namespace, held_out_words: bool) -> dict[str, Counter]:
    """What step 2 makes of held-out prompts: counts for all of them, and for each kind."""
    maker = ConversationMaker(args.prompt_seed, OPENING, True, held_out_words)
    prompts = {}
    while len(prompts) < args.prompts:
        exchange = maker.conversation()
        prompts[exchange.prompt] = exchange
    with tempfile.TemporaryDirectory() as folder:
        responses = generate(list(prompts), args, Path(folder))
        kept = merge(Path(folder))
    counts = {"all": Counter()}
    for prompt, exchange in prompts.items():
        judged = judge(responses[prompt], kept.get(prompt), exchange.topics)
        for group in ("all", exchange.kind):
            counts.setdefault(group, Counter()).update(judged)
    return counts


def generate(prompts: list[str], args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """Response records by prompt, from step 2 at its default temperature and nucleus."""
    records = [{"instruction": prompt, "source": "held_out"} for prompt in prompts]
    (folder / "prompts.json").write_text(json.dumps(records), encoding="utf-8")
    run_step2(
        "generate_self_align_response.py",
        *("--model_dir", args.model_dir, "--input_file", folder / "prompts.json"),
        *("--output_file", folder / "held_out.jsonl", "--seed", args.sampling_seed),
    )
    shards = sorted(folder.glob("held_out_*shards_*.jsonl"))
    rows = [json.loads(line) for shard in shards for line in shard.open(encoding="utf-8")]
    return {row["instruction"]: row for row in rows}


def merge(folder: Path) -> dict[str, str]:
    """The replies that the merge keeps, by prompt."""
    run_step2(
        "merge_and_filter_self_align_with_dummy.py",
        *("--data_file_pattern", folder / "held_out_*shards_*.jsonl"),
        *("--dummy_data_file", REPOSITORY / "dummy_data" / "vicuna_dummy_data.json"),
        *("--output_file", folder / "merged.json"),
    )
    rows = json.loads((folder / "merged.json").read_text(encoding="utf-8"))
    return {row["instruction"]: row["output"] for row in rows if row["source"] == "held_out"}


def run_step2(script: str, *arguments: object) -> None:
    command = [sys.executable, str(STEP2 / script), *map(str, arguments)]
    if subprocess.run(command).returncode:
        sys.exit(f"{script} failed; its message stands above")


def judge(response: dict, reply: str | None, topics: tuple[str, ...]) -> Counter:
    """What counts for one prompt; a reply that the merge leaves out names nothing."""
    named = [topic.lower() in (reply or "").lower() for topic in topics]
    values = (
        1,
        reply is not None,
        response["finish_reason"] in ("stop", "eos"),
        any(named),
        all(named),
    )
    return Counter({name: int(value) for name, value in zip(COUNTS, values, strict=True)})


def print_table(counts: dict[str, Counter]) -> None:
    print(f"{'prompts about':<14}" + "".join(f"{name:>19}" for name in COUNTS))
    for group, count in counts.items():
        shares = [f"{count[name] / count['prompts']:>18.1%} " for name in COUNTS[1:]]
        print(f"{group:<14}{count['prompts']:>18} " + "".join(shares))


if __name__ == "__main__":
    main()
