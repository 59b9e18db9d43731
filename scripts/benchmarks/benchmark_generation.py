"""How fast step 2's engine generates, beside other ways, on the same weights, prompts and lengths.

Writes a model with random weights, then lets each way answer the same prompts behind the same
long prefix, turn by turn, each run to the end of its last response:

  engine      step 2's engine
  static      transformers' generate() in static batches, the prefix cached once
  continuous  transformers' continuous batching, full pages of the prefix shared
  first       the algorithm of the method's first implementation: the prefix copied for every
              sequence, layer and step; no batch ends before its longest response
  vllm        vLLM with its prefix cache, where --vllm_python names an environment with it

Prompts have 8 to 96 tokens; a response's length is drawn (exponential, mean 64, at most 192) and
imposed on all ways. A rate is useful tokens, those of the responses, per second; the median of
the repeats counts. The prefix is computed before the clock starts, for all ways.

    python scripts/benchmarks/benchmark_generation.py --size 120m
    python scripts/benchmarks/benchmark_generation.py --size 120m --vllm_python env/bin/python
    python scripts/benchmarks/benchmark_generation.py --size 8b --slots 256     # on a GPU
"""

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
import transformers
from generation_ways import WAYS, Run, Setting, Way
from generation_workload import (
    KNOWN_LIMITS,
    DeviceLimits,
    Workload,
    draw_workload,
    most_tokens_per_second,
)
from random_model import SIZES, write_model
from tqdm import tqdm

PEERS = [name for name in WAYS if name not in ("engine", "vllm")]
PEER_PROMPTS_ON_CPU = 8  # transformers' ways take minutes for hundreds
TOP_P = 0.95
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIB = 2**20


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="120m", help="shape of the model")
    add("--prompts", type=int, default=256, help="prompts to answer")
    add("--slots", type=int, default=64, help="sequences alive at a time")
    add("--prefix_tokens", type=int, default=2400, help="shared by all prompts")
    add("--dtype", choices=DTYPES, default="bf16", help="of weights and caches")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--repeats", type=int, default=3, help="runs of each way")
    add("--peers", nargs="*", choices=PEERS, default=PEERS, help="transformers' ways")
    add("--peer_prompts", type=int, help=f"of those; {PEER_PROMPTS_ON_CPU} on a CPU, all on a GPU")
    add("--vllm_python", type=Path, help="Python of an environment with vLLM; adds it to the ways")
    add("--temperature", type=float, default=0.7, help="0: greedy, and tokens are compared")
    add("--seed", type=int, default=42)
    add("--limits", type=float, nargs=2, metavar=("BYTES", "FLOPS"), help="of the device, 1/s")
    add("--output_json", type=Path, help="file for the results")
    args = parser.parse_args()
    for name in ("prompts", "slots", "prefix_tokens", "repeats", "peer_prompts"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    if args.output_json is not None and not args.output_json.parent.is_dir():
        parser.error(f"--output_json: there is no folder {args.output_json.parent}")
    if args.vllm_python is not None and not os.access(args.vllm_python, os.X_OK):
        parser.error(f"--vllm_python: {args.vllm_python} is not a Python that can be run")
    return args


def main() -> None:
    """Write the model, run, print."""
    args = parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="benchmark_model_") as temporary:
        folder, device = Path(temporary), torch.device(args.device)
        write_model(folder, SIZES[args.size], DTYPES[args.dtype], device, args.seed)
        results = describe(args) | measure(args, folder)
    print(report(results))
    if args.output_json is not None:
        args.output_json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What is measured, and on what."""
    on_gpu = args.device == "cuda"
    return {
        **{name: getattr(args, name) for name in ("size", "dtype", "slots", "prefix_tokens")},
        **{name: getattr(args, name) for name in ("temperature", "seed", "repeats")},
        "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def processor_name() -> str:
    """The processor as Linux calls it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All ways in turn; the engine first, so that the peak of its memory is its own."""
    workload = draw_workload(
        SIZES[args.size].vocab_size, args.prefix_tokens, args.prompts, args.seed
    )
    device = torch.device(args.device)
    setting = Setting(
        folder, DTYPES[args.dtype], device, args.slots, args.temperature, TOP_P, args.seed
    )
    few = args.peer_prompts or (PEER_PROMPTS_ON_CPU if args.device == "cpu" else args.prompts)
    workloads = {"engine": workload, **dict.fromkeys(args.peers, workload.first(few))}
    if args.vllm_python is not None:
        workloads["vllm"] = workload
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    turns = Turns(setting, workloads, args.vllm_python)
    with tqdm(total=args.repeats * len(workloads), unit="run", file=sys.stderr) as progress:
        for _ in range(args.repeats):
            for name in workloads:
                progress.set_description(name)
                turns.run(name)
                progress.update()
    turns.close()
    ways = {
        name: summarize(workloads[name], turns.runs[name])
        if turns.runs[name]
        else {"skipped": turns.skipped[name]}
        for name in workloads
    }
    results = {"ways": ways, "engine": turns.engine | {"bytes_before_loading": held}}
    if args.temperature == 0:
        results["same_tokens"] = same_tokens(turns.runs)
    return results | share_of_bound(args, workload, ways["engine"]["tokens_per_second"])


class Turns:
    """The ways, loaded when their turn comes; one that can't run says why, once."""

    def __init__(
        self, setting: Setting, workloads: dict[str, Workload], vllm_python: Path | None
    ) -> None:
        self.setting, self.workloads = setting, workloads
        self.runs: dict[str, list[Run]] = {name: [] for name in workloads}
        self.skipped: dict[str, str] = {}
        self.engine: dict[str, Any] = {}
        self._others = {"vllm": [vllm_python]}
        self._ways: dict[str, Way] = {}

    def run(self, name: str) -> None:
        """One more run of a way; the reason goes to `skipped` if this device can't."""
        if name in self.skipped:
            return
        try:
            if name not in self._ways:
                arguments = (self.setting, self.workloads[name], *self._others.get(name, ()))
                self._ways[name] = WAYS[name](*arguments)
                if name == "engine":
                    self._ways[name].run()  # warms up
                    self._describe_engine()
            run = self._ways[name].run()
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
            if name == "engine":
                raise
            self.skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            return
        assert [len(answer) for answer in run.tokens] == self.workloads[name].lengths
        self.runs[name].append(run)

    def _describe_engine(self) -> None:
        engine = self._ways["engine"]
        self.engine = {
            "seconds_before_the_runs": engine.startup,
            "planned_bytes": engine.planned_bytes,
            "peak_bytes": engine.peak_bytes,
        }

    def close(self) -> None:
        """Ends what the ways have started."""
        for way in self._ways.values():
            way.close()


def summarize(workload: Workload, runs: list[Run]) -> dict[str, Any]:
    """Medians over the runs of one way, and how many sequences were alive in an average step."""
    table = pd.DataFrame({"seconds": [r.seconds for r in runs], "steps": [r.steps for r in runs]})
    seconds, steps = table.median()
    return {
        "prompts": len(workload.prompts),
        "useful_tokens": workload.useful_tokens,
        "seconds": table["seconds"].tolist(),
        "tokens_per_second": workload.useful_tokens / seconds,
        "steps": steps,
        "mean_live_slots": workload.useful_tokens / max(steps, 1),
        "stages": pd.DataFrame([run.stages for run in runs]).median().to_dict(),
    }


def same_tokens(runs: dict[str, list[Run]]) -> dict[str, dict[str, int]]:
    """For each other way: its prompts, and those that got exactly the engine's tokens."""
    counts = {}
    for name, of_way in runs.items():
        if of_way and name != "engine":
            pairs = list(zip(of_way[-1].tokens, runs["engine"][-1].tokens, strict=False))
            counts[name] = {"prompts": len(pairs), "same": sum(a == b for a, b in pairs)}
    return counts


def share_of_bound(
    args: argparse.Namespace, workload: Workload, tokens_per_second: float
) -> dict[str, Any]:
    """The device's bound and the engine's share of it, where the device is known."""
    limits = None if args.limits is None else DeviceLimits(*args.limits)
    if limits is None and args.device == "cuda" and args.dtype != "fp32":
        name = torch.cuda.get_device_name()
        limits = next((known for key, known in KNOWN_LIMITS.items() if key in name), None)
    if limits is None:
        return {}
    itemsize = DTYPES[args.dtype].itemsize
    bound = most_tokens_per_second(SIZES[args.size], limits, workload, args.slots, itemsize)
    return {"bound": {"tokens_per_second": bound, "share": tokens_per_second / bound}}


def report(results: dict[str, Any]) -> str:
    """The result, readable, with a table in Markdown."""
    columns = ["prompts", "useful_tokens", "tokens_per_second", "steps", "mean_live_slots"]
    ways = pd.DataFrame(results["ways"]).T.reindex(columns=[*columns, "seconds", "skipped"])
    rate = ways["tokens_per_second"].astype(float)
    ways["engine's gain"] = rate["engine"] / rate
    ways["seconds"] = ways["seconds"].map(lambda s: pd.Series(s).median() if s is not None else s)
    ways = ways.dropna(axis="columns", how="all").rename_axis("way").rename(columns=str)
    lines = [
        f"{results['size']} LLaMA with random weights, {results['dtype']}, {results['device']}, "
        f"{results['threads']} threads; prefix {results['prefix_tokens']:,} tokens, "
        f"{results['slots']} slots; median of {results['repeats']}",
        as_markdown(ways.reset_index()),
        "the engine's seconds: "
        + ", ".join(
            f"{name} {spent:.2f}"
            for spans in (
                results["engine"]["seconds_before_the_runs"],
                results["ways"]["engine"]["stages"],
            )
            for name, spent in spans.items()
        ),
        "memory: planned {planned_bytes:,.0f} MiB, peak {peak_bytes:,.0f} MiB, of which "
        "{bytes_before_loading:,.0f} MiB were held before loading".format_map(
            {k: v / MIB for k, v in results["engine"].items() if k != "seconds_before_the_runs"}
        ),
    ]
    if "bound" in results:
        lines.append(
            "bound: {tokens_per_second:,.0f} tokens/s; the engine reaches {share:.0%}".format_map(
                results["bound"]
            )
        )
    for name, count in results.get("same_tokens", {}).items():
        lines.append(
            f"greedy: {name} gave the engine's tokens for {count['same']} of {count['prompts']}"
        )
    return "\n\n".join(lines)


def as_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with a decimal where they have one."""

    def shown(value: object) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:,.1f}".removesuffix(".0")
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [table.columns, ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(shown, row))} |" for row in rows)


if __name__ == "__main__":
    main()
