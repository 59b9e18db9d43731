"""Sums up the runs of a generation benchmark, as JSON and as tables for the terminal."""

import resource
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engine_runs import EngineRun, MemoryPlan
from generation_peers import PeerRun
from generation_workload import Workload

MIB = 2**20


def resident_bytes() -> int:
    """The memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def summarize_runs(
    workload: Workload, runs: Sequence[EngineRun | PeerRun], skipped: str | None = None
) -> dict[str, Any]:
    """Median rate and mean use of the slots over the runs of one way; or why there are none."""
    if skipped is not None:
        return {"skipped": skipped}
    seconds = [run.seconds for run in runs]
    steps = median(run.steps for run in runs)
    return {
        "prompts": len(workload.prompts),
        "prompt_tokens": sum(map(len, workload.prompts)),
        "useful_tokens": workload.useful_tokens,
        "seconds": seconds,
        "tokens_per_second": workload.useful_tokens / median(seconds),
        "steps": steps,
        "mean_live_slots": median(run.slot_steps for run in runs) / max(steps, 1),
    }


def add_ratios(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Adds to each way how many times as fast the engine is."""
    rate = ways["engine"]["tokens_per_second"]
    return {
        name: way if "skipped" in way else {**way, "ratio": rate / way["tokens_per_second"]}
        for name, way in ways.items()
    }


def summarize_engine(
    runs: Sequence[EngineRun], startup: dict[str, float], plan: MemoryPlan, resident: int
) -> dict[str, Any]:
    """Seconds by stage, and memory beside the plan; `resident` is what was held before loading."""
    names = runs[0].statistics.seconds
    stages = {name: median(run.statistics.seconds[name] for run in runs) for name in names}
    # Later runs share the process with the peers.
    peak = runs[0].statistics.peak_memory_bytes
    return {
        "seconds_before_the_runs": startup,
        "seconds_by_stage": stages,
        "planned_bytes": plan.total,
        "peak_bytes": peak,
        "bytes_before_loading": resident,
    }


def count_same_tokens(
    engine: EngineRun, peers: dict[str, list[PeerRun]]
) -> dict[str, dict[str, int]]:
    """For each peer that ran: its prompts, and those that got exactly the engine's tokens."""
    counts = {}
    for name, runs in peers.items():
        if runs:
            pairs = list(zip(runs[-1].tokens, engine.tokens, strict=False))
            counts[name] = {"prompts": len(pairs), "same": sum(a == b for a, b in pairs)}
    return counts


def format_report(results: dict[str, Any]) -> str:
    """The whole result, readable, with tables in Markdown."""
    parts = [_heading(results), _ways(results["ways"])]
    if "scaling" in results:
        return "\n\n".join([*parts, _scaling(results)])
    parts += [_stages(results["engine"]), _step(results["step"]), _memory(results["engine"])]
    if "roofline" in results:
        parts.append(_roofline(results["roofline"]))
    for name, count in results.get("same_tokens", {}).items():
        parts.append(
            f"greedy: {name} and the engine gave the same tokens for {count['same']} of "
            f"{count['prompts']} prompts"
        )
    return "\n\n".join(parts)


def _heading(results: dict[str, Any]) -> str:
    return (
        f"{results['size']} LLaMA with random weights, {results['dtype']}, "
        f"{results['device_name']}, {results['threads']} threads; prefix "
        f"{results['prefix_tokens']:,} tokens, {results['slots']} slots, responses: "
        f"{results['lengths']}; median of {results['repeats']}"
    )


def _ways(ways: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| way | prompts | useful tokens | seconds | useful tokens/s | engine's gain | steps "
        "| mean live slots |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, way in ways.items():
        if "skipped" in way:
            lines.append(f"| {name} | did not run here: {way['skipped']} | | | | | | |")
            continue
        gain = "" if way.get("ratio", 1.0) == 1.0 else f"{way['ratio']:.1f}x"
        lines.append(
            f"| {name} | {way['prompts']} | {way['useful_tokens']:,} "
            f"| {median(way['seconds']):.1f} | {way['tokens_per_second']:.1f} | {gain} "
            f"| {way['steps']:.0f} | {way['mean_live_slots']:.1f} |"
        )
    return "\n".join(lines)


def _scaling(results: dict[str, Any]) -> str:
    scaling = results["scaling"]
    return (
        f"from the shortest to the whole prefix, the rate falls by "
        f"{scaling['lost_to_prefix']:.1%}\n"
        f"twice the prompts ({scaling['tokens_of_twice_the_prompts']:.2f}x the tokens) take "
        f"{scaling['time_of_twice_the_prompts']:.2f}x the time"
    )


def _stages(engine: dict[str, Any]) -> str:
    def listed(seconds: dict[str, float]) -> str:
        return ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())

    return (
        f"the engine's seconds: {listed(engine['seconds_by_stage'])}; "
        f"before the runs: {listed(engine['seconds_before_the_runs'])}"
    )


def _step(step: dict[str, float]) -> str:
    total = sum(step.values())
    lines = ["| part of a decoding step | ms | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {s * 1e3:.1f} | {s / total:.0%} |" for part, s in step.items()]
    return "\n".join([*lines, f"| together, profiled | {total * 1e3:.1f} | |"])


def _memory(engine: dict[str, Any]) -> str:
    return (
        f"memory: planned {engine['planned_bytes'] / MIB:,.0f} MiB, peak "
        f"{engine['peak_bytes'] / MIB:,.0f} MiB, of which "
        f"{engine['bytes_before_loading'] / MIB:,.0f} MiB were held before loading"
    )


def _roofline(roofline: dict[str, Any]) -> str:
    return (
        f"bound at {roofline['bandwidth'] / 1e12:.2f} TB/s and {roofline['flops'] / 1e12:.0f} "
        f"TFLOP/s: {roofline['tokens_per_second']:,.0f} tokens/s; the engine reaches "
        f"{roofline['share']:.0%}"
    )
