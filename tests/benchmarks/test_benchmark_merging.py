"""The benchmark of the merge runs, and merges what it made."""

import re


def test_it_measures_speed_and_memory(run_script, tmp_path):
    script = "scripts/benchmarks/benchmark_merging.py"
    done = run_script(script, "--responses", 400, "--repeats", 1, "--folder", tmp_path, "--parquet")
    assert done.returncode == 0, done.stderr
    measured = re.fullmatch(
        r"400 responses, 0\.00 GB: [\d.]+ s, [\d,]+ responses/s, ([\d,]+) MB\n", done.stdout
    )
    assert measured, done.stdout
    assert int(measured[1].replace(",", "")) > 10
    assert len(list(tmp_path.glob("run_32shards_*.jsonl"))) == 32
