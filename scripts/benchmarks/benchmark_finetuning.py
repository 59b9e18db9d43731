"""How fast, and in how much memory, step 3 trains, against the usual padded batches.

Trains the same adapter on the same synthetic examples (random tokens, lengths like real ones) in
two ways, turn by turn, each in a process of its own:

  packed  step 3: no padding, loss computed on learned tokens only
  padded  transformers' Trainer with padded random batches and sdpa

Prints real tokens/s (padding never counts), the same for a second of one core's work, which other
programs on the machine do not disturb, the ratios and the peak memory; --output_file keeps all
turns as JSON.

    python scripts/benchmarks/benchmark_finetuning.py                       # CPU
    python scripts/benchmarks/benchmark_finetuning.py --size 7b --bits 4    # one GPU
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = Path(__file__).with_name("finetuning_run.py")
WAYS = ("packed", "padded")
COLUMNS = ("tokens_per_second", "tokens_per_core_second", "padding", "peak_mib")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", choices=("tiny", "7b"), default="tiny", help="shape of the model")
    parser.add_argument("--bits", type=int, choices=(4, 16), default=16, help="of the frozen base")
    parser.add_argument("--steps", type=int, default=6, help="measured steps of 16 examples")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--output_file", type=Path, help="JSON file for the results")
    return parser.parse_args()


def main() -> None:
    """Run both ways in turn, print."""
    args = parse_args()
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way in WAYS:
            runs[way].append(measure(way, args))
            print(f"{way}: {runs[way][-1]}", flush=True)
    report(args, runs)


def measure(way: str, args: argparse.Namespace) -> dict[str, float]:
    """What one process says of its training."""
    settings = ("--size", args.size, "--bits", str(args.bits), "--steps", str(args.steps))
    result = subprocess.run(
        [sys.executable, str(RUN), "--way", way, *settings],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "step3_principle_engraving")},
        stdout=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        raise SystemExit(f"error: the {way} run ended with status {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def report(args: argparse.Namespace, runs: dict[str, list[dict]]) -> None:
    """Prints each way's median and the median ratios of the turns; writes all turns as JSON."""
    print(f"\n{args.size}, {args.bits} bits, {args.steps} steps, median of {args.repeats} turns")
    for way, turns in runs.items():
        rate, work, padding, memory = (statistics.median(row) for row in columns(turns))
        print(
            f"{way}  {rate:9,.0f} tokens/s  {work:9,.0f} tokens per core second  "
            f"padding {padding:4.0%}  peak {memory:7,.0f} MiB"
        )
    ratios = {}
    for name in COLUMNS[:2]:
        pairs = zip(*runs.values(), strict=True)
        found = [packed[name] / padded[name] for packed, padded in pairs]
        ratios[name] = round(statistics.median(found), 3)
        print(f"ratio of {name}: {ratios[name]:.2f} ({min(found):.2f} to {max(found):.2f})")
    if args.output_file:
        results = {"size": args.size, "bits": args.bits, "runs": runs, "ratios": ratios}
        args.output_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def columns(turns: list[dict]) -> list[list[float]]:
    return [[turn[name] for turn in turns] for name in COLUMNS]


if __name__ == "__main__":
    main()
