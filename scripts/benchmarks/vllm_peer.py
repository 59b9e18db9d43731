"""vLLM as a way of generating: a process of its own, in an environment of its own."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from generation_peers import Peer, PeerRun
from generation_workload import Workload

WORKER = Path(__file__).with_name("vllm_worker.py")
IMPORT_SECONDS = 120  # a cold start reads hundreds of libraries
CLOSE_SECONDS = 30


def find_vllm(python: Path) -> str:
    """The version of vLLM that this Python imports; ValueError if it imports none."""
    if not python.is_file() or not os.access(python, os.X_OK):
        raise ValueError(
            f"{python} is not a Python that can be run; give the path of bin/python in an "
            "environment with vLLM"
        )
    command = [str(python), "-c", "import vllm; print(vllm.__version__)"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{python} could not import vllm: {error}") from None
    if run.returncode != 0:
        reason = (run.stderr.strip() or f"exit code {run.returncode}").splitlines()[-1]
        raise ValueError(f"{python} could not import vllm ({reason}); install vLLM beside it")
    return run.stdout.split()[-1]


def worker_environment(python: Path) -> dict[str, str]:
    """The settings under which vLLM was fastest on CPU, with as many threads as the other ways."""
    settings = {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        # One process: a second one for the scheduler would share the cores with the model's.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # vLLM asks for Intel's OpenMP, which its package brings, and loads it only if told here.
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    if openmp.is_file():
        settings["LD_PRELOAD"] = str(openmp)
    return os.environ | settings


class VllmPeer(Peer):
    """vLLM's engine with its prefix cache, which holds the prefix before the clock starts."""

    name = "vllm"

    def __init__(
        self, python: Path, folder: Path, dtype: torch.dtype, workload: Workload, slots: int
    ) -> None:
        """Starts the worker and waits until it has loaded the model; RuntimeError if it can't."""
        super().__init__(workload, slots)
        self.worker = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(python),
        )
        try:
            self._ask(
                model=str(folder),
                dtype=str(dtype).removeprefix("torch."),
                bytes_per_number=dtype.itemsize,
                slots=slots,
                prefix=workload.prefix,
                prompts=workload.prompts,
                lengths=workload.lengths,
            )
        except RuntimeError:
            self.close()
            raise

    def run(self, temperature: float, top_p: float) -> PeerRun:
        return PeerRun(**self._ask(temperature=temperature, top_p=top_p))

    def _ask(self, **message: Any) -> dict[str, Any]:
        """The worker's answer; RuntimeError with the reason where it has none."""
        with suppress(BrokenPipeError):  # if it has ended, the missing answer says so
            self.worker.stdin.write(json.dumps(message) + "\n")
            self.worker.stdin.flush()
        line = self.worker.stdout.readline()
        if not line:
            raise RuntimeError(f"vLLM's process ended with exit code {self.worker.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        with suppress(BrokenPipeError):  # of what could not be written before
            self.worker.stdin.close()
        try:
            self.worker.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()
        self.worker.stdout.close()
