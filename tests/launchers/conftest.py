"""A real Slurm cluster of eight nodes on this machine, and runs of the launchers on it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from response_shards import ResponseReader, find_shards, run_name

LOCAL_SLURM = Path(__file__).with_name("local_slurm.sh")
COMMANDS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "salloc", "scontrol", "scancel")
NODES = 8


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Waits for a condition; fails when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
        time.sleep(0.05)


def python_that_fails(folder: Path) -> Path:
    """An interpreter that has all packages, and inside a job runs none of the stages."""
    program = folder / "python"
    program.write_text(
        '#!/bin/sh\ncase "$SLURM_JOB_ID:$1" in\n'
        f':* | *missing_packages.py) exec {sys.executable} "$@" ;;\nesac\nexit 1\n'
    )
    program.chmod(0o755)
    return program


class SlurmCluster:
    """The cluster of local_slurm.sh."""

    def __init__(self, folder: Path) -> None:
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._script_environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "LOCAL_SLURM_DIR": str(folder),
            "LOCAL_SLURM_GRES": "gpu:32g:6,gpu:80g:8",
        }

    def control(self, *command: object, timeout: float = 60) -> None:
        """Runs local_slurm.sh: start, stop, kill K, orphan K, revive K."""
        # Not through pipes: daemons would keep them open.
        with tempfile.TemporaryFile() as output:
            code = subprocess.run(
                ["bash", str(LOCAL_SLURM), *map(str, command)],
                env=self._script_environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=timeout,
            ).returncode
            output.seek(0)
            assert code == 0, f"local_slurm.sh {command}: {output.read().decode()}"

    def ask(self, *command: object) -> str:
        """The output of a Slurm command."""
        environment = {**os.environ, **self.environment}
        return subprocess.check_output(
            list(map(str, command)), env=environment, text=True, timeout=30
        )

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of a job, as `scontrol show job` names them."""
        record = self.ask("scontrol", "show", "job", "--oneliner", job_id).splitlines()[0]
        return dict(field.partition("=")[::2] for field in record.split())

    def states(self, job_id: str) -> set[str]:
        """The states of a job, or of all tasks of an array."""
        return set(self.ask("squeue", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%T").split())

    def wait_for_end(self, job_id: str, seconds: float) -> set[str]:
        """Waits until no task of a job is pending or running; their states."""
        going_on = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}
        wait_until(lambda: not self.states(job_id) & going_on, seconds, f"the end of job {job_id}")
        return self.states(job_id)

    def restore_node(self, index: str) -> None:
        """Brings back a node after a failure."""
        self.control("revive", index)
        self.ask("scontrol", "update", f"nodename=node{index}", "state=resume")
        is_idle = ["sinfo", "-h", "-n", f"node{index}", "-o", "%t"]
        wait_until(lambda: self.ask(*is_idle).strip() == "idle", 120, f"node{index} to be idle")


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Started once, stopped with everything that runs on it."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in COMMANDS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short, for names of sockets
    folder.chmod(0o755)  # munge's daemon insists
    cluster = SlurmCluster(folder)
    try:
        cluster.control("start", NODES)
        yield cluster
    finally:
        cluster.control("stop")
        shutil.rmtree(folder, ignore_errors=True)


class Launch:
    """Launchers with their settings, and what they leave in the data folder."""

    def __init__(self, repository: Path, folder: Path, environment: dict[str, str]) -> None:
        self.repository = repository
        self.data = folder / "data"
        self.data.mkdir()
        self.environment = {**environment, "DATA_DIR": str(self.data)}
        principles = folder / "principles.txt"
        principles.write_text("Watson answers.\n\nUser:")
        self.flags = [
            *("--prompt_file", str(principles), "--device", "cpu", "--dtype", "float32"),
            *("--max_own_tokens", "100", "--max_new_tokens", "8"),
        ]

    def write_prompts(self, count: int) -> None:
        """Step 1's output: `count` different prompts."""
        records = [
            {"instruction": f"What is {index} and {index}?", "input": "", "source": "test"}
            for index in range(count)
        ]
        (self.data / "merged_prompts.json").write_text(json.dumps(records))

    def write_examples(self, name: str, count: int) -> None:
        """The merge's output: `count` different training examples."""
        records = [
            {
                "example_id": index + 1,
                "instruction": f"What is {index}?",
                "input": "",
                "output": f"It is the number {index}.",
                "finished": True,
            }
            for index in range(count)
        ]
        (self.data / name).write_text(json.dumps(records))

    def move(self, repository: Path, data: str) -> None:
        """To another checkout, and another name for the data folder."""
        self.repository = repository
        self.data = self.data.rename(self.data.with_name(data))
        self.environment["DATA_DIR"] = str(self.data)

    def start(self, *command: object, cwd: str = ".", **settings: str) -> subprocess.Popen:
        """Starts a command with the settings in its environment."""
        return subprocess.Popen(
            list(map(str, command)),
            cwd=self.repository / cwd,
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def run(
        self, *command: object, cwd: str = ".", timeout: float = 240, **settings: str
    ) -> subprocess.CompletedProcess:
        """Runs a command to its end; stdout and stderr together."""
        with self.start(*command, cwd=cwd, **settings) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            finally:
                process.kill()
        return subprocess.CompletedProcess(command, process.returncode, output)

    def submit(self, *command: object, cwd: str = ".", **settings: str) -> str:
        """sbatch; the job's number. Its output goes to the data folder."""
        output = f"--output={self.data}/%x-%j.out"
        done = self.run("sbatch", "--parsable", output, *command, cwd=cwd, timeout=30, **settings)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def rows(self, name: str) -> list[dict]:
        """Every response of a run, twice where it was written twice."""
        shards = find_shards(run_name(self.data / f"{name}.jsonl"))
        return [row for shard in shards for row in ResponseReader([shard]).read()]

    def answered_once(self, name: str, count: int) -> bool:
        """Whether each of `count` prompts has one response."""
        ids = [row["id"] for row in self.rows(name)]
        return len(ids) == len(set(ids)) == count

    def screens(self) -> str:
        """What all jobs wrote."""
        return "\n".join(path.read_text() for path in sorted(self.data.glob("*.out")))

    def log(self, pattern: str = "*") -> str:
        """The launchers' logs."""
        return "\n".join(path.read_text() for path in sorted(self.data.glob(f"logs/{pattern}.log")))

    def processes(self, part: str = "") -> dict[int, str]:
        """The living processes with these settings, by id, whose command line has `part`."""
        mark = f"\0DATA_DIR={self.data}\0".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = mark in b"\0" + (folder / "environ").read_bytes()
                command = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if marked and command and part in command:
                found[int(folder.name)] = command
        return found


@pytest.fixture
def launch(repository, tiny_base_model, tmp_path) -> Iterator[Launch]:
    """Settings for the tiny model on CPU; nothing may run any more after the test."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    settings |= {"MODEL_DIR": str(tiny_base_model), "PYTHON": sys.executable}
    settings |= {"GPUS_PER_NODE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = Launch(repository, tmp_path, {**settings, "HF_HUB_OFFLINE": "1"})
    yield launch
    try:
        wait_until(lambda: not launch.processes(), 20, "the last processes to end")
    finally:
        for process, command in launch.processes().items():
            print("left running:", process, command)
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def slurm_launch(launch, cluster) -> Iterator[Launch]:
    """The same on the cluster."""
    launch.environment |= cluster.environment
    yield launch
    for job in set(cluster.ask("squeue", "-h", "-o", "%A").split()):  # after a failure
        cluster.ask("scancel", job)
