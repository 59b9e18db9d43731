"""Runs the engine and keeps the logits of every sampled token; also as several ranks of one launch.

    python engine_runs.py LAUNCH.json

The launch names `processes`, a folder `out` and `cases`: each the keyword arguments of `run_case`.
Ranks are forked, which spares each the import of torch; rank R leaves its results in out/R.pt.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from engine.decoder import Decoder
from engine.engine import Engine, EngineSettings, Request, SamplingSettings
from engine.sampler import noise_key


def run_case(
    model_dir: str,
    prefix_text: str,
    requests: list[tuple[str, str]],
    sampling: dict[str, Any],
    shares: bool = False,
    drain_after: int | None = None,
    seeds: list[int] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Answers the requests; with `shares`, each data-parallel group only its part of them.

    With `drain_after`, the group's leader wants to drain after so many completions, and the other
    ranks, whose wish must not count, from the beginning.

    With `seeds`, rank i samples with the i-th of them, as only a broken machine would.

    Returns `completions`: id -> (finish_reason, text, prompt_tokens, output_ids), in the order in
    which they finished, and `logits`: id -> [draws, vocabulary].
    """
    if seeds is not None:
        sampling = {**sampling, "seed": seeds[int(os.environ.get("RANK", "0"))]}
    drawing = SamplingSettings(**sampling)
    engine = Engine(
        EngineSettings(Path(model_dir), prefix_text, sampling=drawing, **settings),
    )
    if shares:
        requests = requests[engine.ranks.group_index :: engine.ranks.group_count]
    id_of = {noise_key(drawing.seed, name): name for name, _ in requests}
    logits = defaultdict(dict)
    sample = Decoder.sample

    def recording_sample(decoder, rows, keys, positions, sampling):
        for row, key, position in zip(rows, keys.tolist(), positions.tolist(), strict=True):
            logits[id_of[key]][position] = row.cpu().clone()
        return sample(decoder, rows, keys, positions, sampling)

    Decoder.sample = recording_sample
    completions = []

    def should_drain() -> bool:
        return not engine.ranks.leads_group or len(completions) >= drain_after

    try:
        asked = [Request(*request) for request in requests]
        drain = None if drain_after is None else should_drain
        for completion in engine.generate(asked, should_drain=drain):
            completions.append(completion)
    finally:
        Decoder.sample = sample
    return {
        "completions": {
            c.request.id: (c.finish_reason, c.text, c.prompt_tokens, c.output_ids)
            for c in completions
        },
        "logits": {
            name: torch.stack([rows[position] for position in sorted(rows)])
            for name, rows in logits.items()
        },
        "leads_group": engine.ranks.leads_group,
        "group_index": engine.ranks.group_index,
        "start_check": engine.statistics.start_check,
    }


def launch(processes: int, cases: list[dict[str, Any]], out: Path) -> list[list[dict[str, Any]]]:
    """Runs the cases one after the other on so many ranks; results by rank, then by case."""
    description = {"processes": processes, "cases": cases, "out": str(out)}
    (out / "launch.json").write_text(json.dumps(description))
    stage = Path(__file__).resolve().parents[2] / "step2_principle_driven_self_alignment"
    run = subprocess.run(
        [sys.executable, __file__, str(out / "launch.json")],
        env={**os.environ, "PYTHONPATH": str(stage), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [path.read_text() for path in sorted(out.glob("*.error"))]
    assert run.returncode == 0, min(errors, key=lambda error: "gloo" in error)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def main() -> None:
    description = json.loads(Path(sys.argv[1]).read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(description["processes"]):
        child = os.fork()
        if child == 0:
            run_rank(rank, description)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))


def run_rank(rank: int, description: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(description["processes"])}
    code = 1
    try:
        results = [run_case(**case) for case in description["cases"]]
        torch.save(results, Path(description["out"]) / f"{rank}.pt")
        code = 0
    except BaseException:
        (Path(description["out"]) / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
