"""How fast, and in how much memory, a run's responses are merged and filtered.

Writes a synthetic run of 32 shards: random words at the published lengths, one response in six
broken in some way, a reply in 20 with Chinese in it. Then merges it as users do and prints seconds,
responses/s and the peak of the memory that all its processes hold together.

    python scripts/benchmarks/benchmark_merging.py --responses 360000
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = (
    REPOSITORY
    / "step2_principle_driven_self_alignment"
    / "merge_and_filter_self_align_with_dummy.py"
)
PROMPTS = REPOSITORY / "prompts"
GROUPS = 32
SOURCES = ("sharegpt", "openorca/flan", "openorca/t0", "dolly")
VOCABULARY = 6000
SAMPLE_SECONDS = 0.1  # between two looks at the memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--responses", type=int, default=360_000, help="responses of the run")
    parser.add_argument("--repeats", type=int, default=2, help="merges of the run")
    parser.add_argument("--parquet", action="store_true", help="write the parquet folder too")
    parser.add_argument("--folder", type=Path, help="where the synthetic run lies and stays")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not any(folder.glob("*shards_*.jsonl")):
            write_run(folder, args.responses)
        size = sum(path.stat().st_size for path in folder.glob("*shards_*.jsonl"))
        command = [sys.executable, SCRIPT, "--data_file_pattern", folder / "run_32shards_*.jsonl"]
        command += ["--output_file", Path(temporary) / "merged.json"]
        for _ in range(args.repeats):
            seconds, peak = measure([*command, *["--parquet"] * args.parquet])
            print(
                f"{args.responses:,} responses, {size / 1e9:.2f} GB: {seconds:.1f} s, "
                f"{args.responses / seconds:,.0f} responses/s, {peak / 1e6:,.0f} MB"
            )


def write_run(folder: Path, responses: int) -> None:
    """Writes the shards of a run without a manifest."""
    rng = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 10))) for _ in range(VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(VOCABULARY)]  # Zipf's law, as in real texts
    sea = rng.choices(words, weights, k=400_000)
    opening = (PROMPTS / "required_opening.txt").read_text().strip()
    shards = [(folder / f"run_{GROUPS}shards_{rank}.jsonl").open("w") for rank in range(GROUPS)]
    for index in tqdm(range(responses), unit=" responses"):
        record = response(rng, sea, opening, index)
        shards[index % GROUPS].write(json.dumps(record, ensure_ascii=False) + "\n")
    for shard in shards:
        shard.close()


def response(rng: random.Random, sea: list[str], opening: str, index: int) -> dict:
    """A response record: thoughts of 36 words and a reply of 190, about 1,500 characters."""
    thoughts = f"{opening} Principle {index % 17 + 1} (helpful) applies. {sentences(rng, sea, 36)}"
    output = f" {thoughts}\n\nWatson: {sentences(rng, sea, 190)}"
    finish_reason, draw = "stop", rng.random()
    if draw < 0.05:
        output = f" Well.{output}"
    elif draw < 0.1:
        output, finish_reason = output[: rng.randrange(900, len(output))], "length"
    elif draw < 0.15:
        output += " “里斯本在海边。”"
    elif draw < 0.17:
        output, finish_reason = output + " over and over again" * 40, "length"
    return {
        "id": hashlib.sha256(str(index).encode()).hexdigest()[:16],
        "instruction": sentences(rng, sea, 15),
        "input": "",
        "output": output,
        "source": SOURCES[index % len(SOURCES)],
        "finish_reason": finish_reason,
        "prompt_tokens": 40,
        "output_tokens": 300,
    }


def sentences(rng: random.Random, sea: list[str], words: int) -> str:
    """Words in a row from a random place, twelve to a sentence."""
    start = rng.randrange(len(sea) - words)
    text = " ".join(sea[start : start + words]) + "."
    return re.sub(r"((?:\S+ ){11}\S+) ", lambda match: match[1].capitalize() + ". ", text)


def measure(command: list) -> tuple[float, int]:
    """Wall seconds of a command, and the most bytes that its processes held together.

    Bytes are proportional set sizes: what processes share counts once.
    """
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_held(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"error: {command[1]} ended with status {process.returncode}")
    return time.monotonic() - started, peak


def memory_held(pid: int) -> int:
    """Bytes of a process and all its children."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:  # it ended while we looked
        pass
    return total


if __name__ == "__main__":
    main()
