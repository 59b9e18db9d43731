"""The benchmark of prompt preparation, with a small file."""

import json

import pytest


@pytest.mark.slow
def test_both_ways_draw_from_a_synthetic_file(run_script, tmp_path):
    output = tmp_path / "results.json"
    done = run_script(
        "scripts/benchmarks/benchmark_prompt_preparation.py",
        *("--rows", 2000, "--repeats", 1, "--output_file", output),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["rows"] == 2000 and set(results["runs"]) == {"script", "baseline"}
    assert results["ratio"] > 0 and "rows/s" in done.stdout
