"""How fast, and in how much memory, OpenOrca prompts are drawn from a parquet file.

Writes a synthetic file with the columns and text lengths of OpenOrca (1,000,000 rows are about
1 GB), then draws the sample in two ways, turn by turn, each in a process of its own:

  script    step1_prompt_preparation/subsample_openorca_prompts.py
  baseline  pandas row by row, encoding one prompt at a time until each collection has enough

Prints rows/s, the ratio and each process's peak memory; --output_file keeps them as JSON.

    python scripts/benchmarks/benchmark_prompt_preparation.py --tokenizer_name tokenizer.model
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "step1_prompt_preparation" / "subsample_openorca_prompts.py"
TEXT = REPOSITORY / "prompts" / "watson_self_align_prompt.txt"
TINY_TOKENIZER = REPOSITORY / "scripts" / "tiny_base_model" / "checkpoint" / "tokenizer.model"
COLLECTIONS = ("flan", "t0", "niv", "cot")
SHARES = (0.55, 0.25, 0.13, 0.07)  # of the rows
ROWS_PER_GROUP = 50_000
# characters, log-normal: fitted to the published sample's means of about 720 and 800
QUESTION_LENGTHS = (6.1, 0.95)
RESPONSE_LENGTHS = (6.3, 0.85)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the synthetic file")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each way")
    parser.add_argument("--tokenizer_name", default=str(TINY_TOKENIZER), help="SentencePiece model")
    parser.add_argument("--folder", type=Path, help="where the synthetic file lies and stays")
    parser.add_argument("--output_file", type=Path, help="JSON file for the results")
    parser.add_argument("--baseline_on", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Write the file, run both ways in turn, print."""
    args = parse_args()
    if args.baseline_on:
        run_baseline(args.baseline_on, args.tokenizer_name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        parquet = folder / f"synthetic_openorca_{args.rows}.parquet"
        if not parquet.exists():
            write_synthetic_file(parquet, args.rows)
        output = Path(temporary) / "prompts.json"
        tokenizer = ["--tokenizer_name", args.tokenizer_name]
        ways = {
            "script": [SCRIPT, "--train_data_path", parquet, "--output_path", output, *tokenizer],
            "baseline": [__file__, "--baseline_on", parquet, *tokenizer],
        }
        runs: dict[str, list[dict]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, command in ways.items():
                runs[way].append(measure(command))
                print(f"{way}: {runs[way][-1]}", flush=True)
        report(args, parquet.stat().st_size, runs)


def write_synthetic_file(path: Path, rows: int) -> None:
    """Writes rows of random words: as long as OpenOrca's, every question different."""
    words = re.findall(r"\w+[,.]?", TEXT.read_text(encoding="utf-8"))
    generator = np.random.default_rng(0)
    random.Random(0).shuffle(words)
    sea = " ".join(np.array(words)[generator.integers(0, len(words), 4_000_000)])
    schema = pa.schema([(n, pa.string()) for n in ("id", "system_prompt", "question", "response")])
    beside = path.with_suffix(".part")
    with pq.ParquetWriter(beside, schema) as writer, tqdm(total=rows, unit="rows") as bar:
        for first in range(0, rows, ROWS_PER_GROUP):
            count = min(ROWS_PER_GROUP, rows - first)
            names = generator.choice(COLLECTIONS, count, p=SHARES)
            columns = {
                "id": [f"{name}.{first + row}" for row, name in enumerate(names)],
                "system_prompt": cut(sea, generator, count, (4.9, 0.3)),
                "question": cut(sea, generator, count, QUESTION_LENGTHS),
                "response": cut(sea, generator, count, RESPONSE_LENGTHS),
            }
            writer.write_table(pa.table(columns, schema))
            bar.update(count)
    beside.replace(path)


def cut(sea: str, generator: np.random.Generator, count: int, lengths: tuple) -> list[str]:
    """Pieces of the text at random places, with log-normal lengths."""
    sizes = np.clip(generator.lognormal(*lengths, count), 12, 12_000).astype(int)
    starts = generator.integers(0, len(sea) - 12_000, count)
    return [sea[a : a + n] for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)]


def measure(command: list) -> dict[str, float]:
    """Wall seconds and peak resident memory (MiB) of one process."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: {command[0]} ended with status {status}")
    seconds = time.monotonic() - started
    return {"seconds": round(seconds, 2), "peak_mib": round(usage.ru_maxrss / 1024)}


def run_baseline(parquet: Path, tokenizer_name: str, samples: int = 10_000) -> None:
    """The obvious way: a data frame, `iloc` for each row, one encode for each prompt."""
    import pandas
    from sentencepiece import SentencePieceProcessor

    frame = pandas.read_parquet(parquet)
    tokenizer = SentencePieceProcessor(model_file=tokenizer_name)
    collections: dict[str, list] = {name: [] for name in COLLECTIONS}
    for index in range(len(frame)):
        row = frame.iloc[index]
        collections[row["id"].split(".")[0]].append(row)
    generator, seen = random.Random(0), set()
    for rows in collections.values():
        generator.shuffle(rows)
        kept = 0
        for row in rows:
            question = row["question"].strip()
            if question in seen or "remise" in question or "ypothesis" in question:
                continue
            seen.add(question)
            kept += len(tokenizer.encode(question)) <= 256
            if kept == samples:
                break


def report(args: argparse.Namespace, size: int, runs: dict[str, list[dict]]) -> None:
    """Prints the fastest turn of each way and the ratio; writes all turns as JSON."""
    best = {way: min(turns, key=lambda turn: turn["seconds"]) for way, turns in runs.items()}
    ratio = best["baseline"]["seconds"] / best["script"]["seconds"]
    print(f"\n{args.rows:,} rows, {size / 1e9:.2f} GB of parquet, {os.cpu_count()} cores")
    for way, turn in best.items():
        rate = args.rows / turn["seconds"]
        print(f"{way:9} {turn['seconds']:8.1f} s {rate:10,.0f} rows/s {turn['peak_mib']:7,} MiB")
    print(f"ratio     {ratio:8.1f}")
    if args.output_file:
        results = {"rows": args.rows, "bytes": size, "runs": runs, "ratio": round(ratio, 2)}
        args.output_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
