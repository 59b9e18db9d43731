"""A process that answers the prompts of one group with made-up text, for the tests of shards.

    python shard_worker.py NAME GROUP_SIZE GROUP_RANK PROMPTS [SECONDS_A_ROW]

It works as the generator does, without a model: takes its shard, leaves out what any shard of the
run answers already, and appends a row at a time. It prints `ready` when it has its shard, or
`refused` and why.
"""

import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2] / "step2_principle_driven_self_alignment")
)

from response_shards import find_shards, finish_reasons
from shard_writer import ShardWriter
from user_error import run_script


def answer(index: int) -> dict:
    text = f"é{index} " * (index % 50)
    return {
        "id": f"{index:06}",
        "instruction": f"{index}?",
        "output": text,
        "finish_reason": "stop",
    }


def main(name: str, size: str, rank: str, prompts: str, pause: str = "0") -> None:
    with ShardWriter(Path(name), int(size), int(rank)) as writer:
        print("ready", flush=True)
        done = finish_reasons(find_shards(Path(name)))
        for index in range(int(rank), int(prompts), int(size)):
            if f"{index:06}" not in done:
                time.sleep(float(pause))
                writer.append(answer(index))


if __name__ == "__main__":
    refuse = lambda error: print(f"refused {error}", flush=True)  # noqa: E731
    sys.exit(run_script(lambda: main(*sys.argv[1:]), refuse))
