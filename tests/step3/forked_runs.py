"""Runs finetune.py many times in forked processes, which spares each run the import of torch.

    python forked_runs.py SCENARIO.json

The scenario lists runs: `flags`, `processes`, and `interruptions`, each `random` (SIGKILL at a
random moment), `saving` (SIGKILL while a checkpoint is being written) or a signal's name (sent once
some step is done). After these the run goes on undisturbed. Prints the exit codes of each run as
JSON.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import finetune
from engraving_command import run_command


def main() -> None:
    scenario = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run_to_the_end(**run) for run in scenario]))


def run_to_the_end(flags: list[str], processes: int, interruptions: list[str]) -> list:
    moments = random.Random(repr(flags))
    output_dir = Path(flags[flags.index("--output_dir") + 1])
    codes, seconds = [], None
    for interruption in [*interruptions, None]:
        start, born = time.perf_counter(), time.time()
        children = start_processes(flags, processes)
        if interruption == "random":
            time.sleep(moments.uniform(0.05, seconds or 1.5))
        elif interruption is not None:
            wait_for_a_save(output_dir, born, children)
            time.sleep(moments.random() * 0.02)
        if interruption is not None:
            number = signal.SIGKILL if interruption in ("saving", "random") else interruption
            signal_all(children, getattr(signal, str(number), number))
        codes.append([wait_for(child) for child in children])
        if all(code == 0 for code in codes[-1]):
            break
        seconds = seconds or min(time.perf_counter() - start, 2.5)
    return codes


def is_saving(output_dir: Path, since: float) -> bool:
    """A checkpoint is being written, and not one that an earlier kill left behind."""
    try:
        return any(path.stat().st_mtime > since for path in (output_dir / ".saving").glob("*/*"))
    except FileNotFoundError:
        return False


def start_processes(flags: list[str], processes: int) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            run_child(flags, processes, rank, port)
        children.append(child)
    return children


def run_child(flags: list[str], processes: int, rank: int, port: int) -> None:
    if processes > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = ["finetune.py", *flags]
    try:
        run_command(finetune.main)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code)
    finally:
        os._exit(1)


def wait_for_a_save(output_dir: Path, since: float, children: list[int]) -> None:
    while not is_saving(output_dir, since) and all(is_running(child) for child in children):
        time.sleep(0.001)


def is_running(child: int) -> bool:
    state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def signal_all(children: list[int], number: int) -> None:
    for child in children:
        os.kill(child, number)


def wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
