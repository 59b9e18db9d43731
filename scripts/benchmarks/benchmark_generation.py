"""How fast step 2's engine generates, beside other ways, on the same weights, prompts and lengths.

Writes a model with random weights, then lets each way answer the same prompts behind the same
long prefix, turn by turn, each run to the end of its last response:

  engine      step 2's engine
  static      transformers' generate() in static batches, the prefix cached once
  continuous  transformers' continuous batching, full pages of the prefix shared
  first       the algorithm of the method's first implementation: the prefix copied for every
              sequence, layer and step; no batch ends before its longest response
  vllm        vLLM with its prefix cache, on CPU; where --vllm_python names an environment with it

Prompts have 8 to 96 tokens; a response's length is drawn (exponential, mean 64, at most 192) and
imposed on all ways. A rate is useful tokens, those of the responses, per second; the median of
the repeats counts. The prefix is computed before the clock starts, for all ways.

    python scripts/benchmarks/benchmark_generation.py --size 120m
    python scripts/benchmarks/benchmark_generation.py --size 120m --scaling
    python scripts/benchmarks/benchmark_generation.py --size 120m --fixed_length 32
    python scripts/benchmarks/benchmark_generation.py --size 120m --vllm_python env/bin/python
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own chatter

import torch
import transformers
from benchmark_model import SIZES, write_model
from benchmark_report import (
    add_ratios,
    count_same_tokens,
    format_report,
    resident_bytes,
    summarize_engine,
    summarize_runs,
)
from engine_runs import EngineRun, EngineRuns, SamplingSettings, UserError, choose_device
from generation_peers import PEERS, Peer, PeerRun, load_peer_model
from generation_workload import LENGTHS, Workload, draw_workload
from roofline import Device, bound, known_device
from tqdm import tqdm
from transformers import PreTrainedModel
from vllm_peer import VllmPeer, find_vllm

PEER_PROMPTS_ON_CPU = 8  # the peers take minutes for hundreds
SHORT_PREFIX = 600  # tokens, for --scaling
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="120m", help="shape of the model")
    parser.add_argument("--prompts", type=int, default=256, help="prompts to answer")
    parser.add_argument("--slots", type=int, default=64, help="sequences alive at a time")
    parser.add_argument("--prefix_tokens", type=int, default=2400, help="shared by all prompts")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of weights and caches")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--peer_prompts",
        type=int,
        help=f"the peers answer this many of the prompts; by default {PEER_PROMPTS_ON_CPU} on "
        "CPU, all on CUDA",
    )
    parser.add_argument(
        "--vllm_python",
        type=Path,
        help="Python of an environment with vLLM; adds it to the peers, and it answers all prompts",
    )
    parser.add_argument("--fixed_length", type=int, help="give all responses this many tokens")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help=f"instead: the engine alone, with {SHORT_PREFIX} tokens of prefix; twice the prompts",
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="0: greedy, and compared")
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--bandwidth", type=float, help="of the device's memory, bytes/s")
    parser.add_argument("--flops", type=float, help="of the device's matrix products, 1/s")
    parser.add_argument("--output_json", type=Path, help="file for the results")
    args = parser.parse_args()
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses, before any work, what can't be run."""
    for name in ("prompts", "slots", "prefix_tokens", "repeats", "peer_prompts", "fixed_length"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    if args.scaling and args.prefix_tokens <= SHORT_PREFIX:
        parser.error(
            f"--prefix_tokens is {args.prefix_tokens}; --scaling compares it with {SHORT_PREFIX}, "
            "so give more"
        )
    if (args.bandwidth is None) != (args.flops is None):
        parser.error("--bandwidth and --flops make a bound together; give both or neither")
    if args.output_json is not None and not args.output_json.parent.is_dir():
        parser.error(f"--output_json: there is no folder {args.output_json.parent}")
    try:
        device = choose_device(args.device)
        SamplingSettings(temperature=args.temperature, top_p=args.top_p)
    except UserError as error:
        parser.error(str(error))
    args.device = device.type
    if args.peer_prompts is None:
        args.peer_prompts = PEER_PROMPTS_ON_CPU if device.type == "cpu" else args.prompts
    args.peer_prompts = min(args.peer_prompts, args.prompts)
    if args.vllm_python is not None:
        check_vllm(parser, args)


def check_vllm(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses a vLLM that can't be compared; otherwise adds it to the peers."""
    if args.scaling:
        parser.error("--scaling runs the engine alone; leave out --vllm_python")
    if args.device != "cpu":
        parser.error(f"--vllm_python is for --device cpu; the device is {args.device}")
    try:
        args.vllm_version = find_vllm(args.vllm_python)
    except ValueError as error:
        parser.error(f"--vllm_python: {error}")
    args.peers = [*args.peers, VllmPeer.name]


def main() -> None:
    """Write the model, run, print."""
    args = parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="benchmark_model_") as temporary:
        folder = Path(temporary)
        device = torch.device(args.device)
        write_model(folder, SIZES[args.size], DTYPES[args.dtype], device, args.seed)
        results = describe(args) | (measure_scaling if args.scaling else measure)(args, folder)
    print(format_report(results))
    if args.output_json is not None:
        args.output_json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What is measured, and on what."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if args.vllm_python is not None:
        versions["vllm"] = args.vllm_version
    device_name = torch.cuda.get_device_name() if args.device == "cuda" else processor_name()
    return {
        "size": args.size,
        "dtype": args.dtype,
        "device": args.device,
        "device_name": device_name,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "slots": args.slots,
        "prefix_tokens": args.prefix_tokens,
        "lengths": LENGTHS if args.fixed_length is None else f"{args.fixed_length} tokens each",
        "temperature": args.temperature,
        "top_p": args.top_p,
        "seed": args.seed,
        "repeats": args.repeats,
    }


def processor_name() -> str:
    """The processor as Linux calls it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def make_workload(args: argparse.Namespace, prompts: int, prefix_tokens: int) -> Workload:
    """Prompts and lengths as the flags ask."""
    vocab_size = SIZES[args.size].vocab_size
    return draw_workload(vocab_size, prefix_tokens, prompts, args.fixed_length, args.seed)


def load_engine(args: argparse.Namespace, folder: Path, workload: Workload) -> EngineRuns:
    """The engine with a workload's prefix."""
    sampling = SamplingSettings(
        args.temperature, args.top_p, args.seed, max_new_tokens=max(workload.lengths)
    )
    dtype = str(DTYPES[args.dtype]).removeprefix("torch.")
    return EngineRuns(folder, workload, sampling, slots=args.slots, dtype=dtype, device=args.device)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All ways in turn; the engine first, so that the peak of its memory is its own."""
    workload = make_workload(args, args.prompts, args.prefix_tokens)
    resident = resident_bytes()
    engine = load_engine(args, folder, workload)
    engine.run(workload.first(args.slots))  # warms up
    peers = PeerTurns(args, folder, workload)
    engine_runs = []
    with tqdm(total=args.repeats * (1 + len(args.peers)), unit="run", file=sys.stderr) as progress:
        for _ in range(args.repeats):
            progress.set_description("engine")
            engine_runs.append(engine.run())
            progress.update()
            for name in args.peers:
                progress.set_description(name)
                peers.run(name)
                progress.update()
    peers.close()
    ways = {"engine": summarize_runs(workload, engine_runs)}
    for name in args.peers:
        ways[name] = summarize_runs(
            peers.workloads[name], peers.runs[name], peers.skipped.get(name)
        )
    results = {
        "ways": add_ratios(ways),
        "engine": summarize_engine(engine_runs, engine.startup, engine.plan, resident),
        "step": engine.profile_step(engine_runs[-1].steps),
    }
    if args.temperature == 0:
        results["same_tokens"] = count_same_tokens(engine_runs[-1], peers.runs)
    return results | measure_roofline(args, workload, ways["engine"]["tokens_per_second"])


class PeerTurns:
    """The peers, loaded when the first of them has its turn; one that can't run says why, once."""

    def __init__(self, args: argparse.Namespace, folder: Path, workload: Workload) -> None:
        self.args = args
        self.folder = folder
        # vLLM answers hundreds of prompts in the engine's time or so, the others don't.
        self.workloads = {
            name: workload if name == VllmPeer.name else workload.first(args.peer_prompts)
            for name in args.peers
        }
        self.runs: dict[str, list[PeerRun]] = {name: [] for name in args.peers}
        self.skipped: dict[str, str] = {}
        self._model: PreTrainedModel | None = None
        self._peers: dict[str, Peer] = {}

    def run(self, name: str) -> None:
        """One more run of a peer; the reason goes to `skipped` if this device can't."""
        if name in self.skipped:
            return
        try:
            run = self._peer(name).run(self.args.temperature, self.args.top_p)
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
            self.skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            return
        assert [len(answer) for answer in run.tokens] == self.workloads[name].lengths
        self.runs[name].append(run)

    def _peer(self, name: str) -> Peer:
        if name not in self._peers:
            self._peers[name] = self._load(name)
        return self._peers[name]

    def _load(self, name: str) -> Peer:
        args, dtype, workload = self.args, DTYPES[self.args.dtype], self.workloads[name]
        if name == VllmPeer.name:
            return VllmPeer(args.vllm_python, self.folder, dtype, workload, args.slots)
        if self._model is None:
            self._model = load_peer_model(self.folder, dtype, torch.device(args.device))
        return PEERS[name](self._model, workload, args.slots)

    def close(self) -> None:
        """Ends what the peers have started."""
        for peer in self._peers.values():
            peer.close()


def measure_roofline(
    args: argparse.Namespace, workload: Workload, tokens_per_second: float
) -> dict[str, Any]:
    """The device's bound and the engine's share of it, where the device is known."""
    if args.bandwidth is not None:
        device = Device(args.bandwidth, args.flops)
    else:
        device = known_device(torch.cuda.get_device_name()) if args.device == "cuda" else None
    if device is None or (args.dtype == "fp32" and args.bandwidth is None):
        return {}
    itemsize = DTYPES[args.dtype].itemsize
    ideal = bound(SIZES[args.size], device, workload, args.slots, itemsize)
    share = tokens_per_second / ideal["tokens_per_second"]
    return {"roofline": {**asdict(device), **ideal, "share": share}}


def measure_scaling(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The engine alone: with a short prefix, with the whole one, and with twice the prompts."""
    short = make_workload(args, args.prompts, SHORT_PREFIX)
    twice = make_workload(args, 2 * args.prompts, args.prefix_tokens)
    once = twice.first(args.prompts)
    short_engine, engine = (load_engine(args, folder, workload) for workload in (short, twice))
    cases = {
        f"prefix {SHORT_PREFIX}": (short_engine, short),
        f"prefix {args.prefix_tokens}": (engine, once),
        f"{2 * args.prompts} prompts": (engine, twice),
    }
    runs: dict[str, list[EngineRun]] = {case: [] for case in cases}
    with tqdm(total=args.repeats * len(cases), unit="run", file=sys.stderr) as progress:
        for runner, workload in cases.values():
            runner.run(workload.first(args.slots))  # warms up
        for _ in range(args.repeats):
            for case, (runner, workload) in cases.items():
                progress.set_description(case)
                runs[case].append(runner.run(workload))
                progress.update()
    summaries = {case: summarize_runs(cases[case][1], of_case) for case, of_case in runs.items()}
    before, after, doubled = summaries.values()
    return {
        "ways": summaries,
        "scaling": {
            "lost_to_prefix": 1 - after["tokens_per_second"] / before["tokens_per_second"],
            "time_of_twice_the_prompts": median(doubled["seconds"]) / median(after["seconds"]),
            "tokens_of_twice_the_prompts": twice.useful_tokens / once.useful_tokens,
        },
    }


if __name__ == "__main__":
    main()
