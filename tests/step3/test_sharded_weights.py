"""FSDP2 on two processes over gloo: sharded weights and rows without padding go together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_sharded_gradient_is_the_whole_one(repository, random_model, kind):
    script = Path(__file__).with_name("sharded_step.py")
    result = subprocess.run(
        [sys.executable, str(script), str(random_model), kind],
        env={
            **os.environ,
            "PYTHONPATH": str(repository / "step3_principle_engraving"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.splitlines()[-1]) < 1e-6
