"""What every test folder shares: where things lie, how a stage script is run as users run it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the project."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SELF_ALIGN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set SELF_ALIGN_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_base_model() -> Path:
    """The trained tiny LLaMA that ships with the project."""
    return REPOSITORY / "scripts" / "tiny_base_model" / "checkpoint"


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python SCRIPT ARGUMENTS…`; SCRIPT is relative to the project's root.

    Keyword arguments: `cwd`, `env` (added to the environment), `timeout` in seconds.
    """

    def run(script: str, *arguments: object, cwd=None, env=None, timeout: float = 300):
        command = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}
        return subprocess.run(
            command, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True
        )

    return run
