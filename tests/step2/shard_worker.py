"""A process that answers the prompts of one group with made-up text, for the tests of shards.

    python shard_worker.py NAME GROUP_SIZE GROUP_RANK PROMPTS [SECONDS_A_ROW]

It works as the generator does, without a model: takes its shard, leaves out what any shard of the
run answers already, and appends a row at a time. It prints `ready` when it owns its shard and
`lost` when another process has taken it over.
"""

import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2] / "step2_principle_driven_self_alignment")
)

from response_shards import ShardWriter, find_shards, read_ids, shard_path
from shard_lock import ShardOwnedError, ShardTakenOverError


def main(name: str, size: str, rank: str, prompts: str, pause: str = "0") -> int:
    shard = shard_path(Path(name), int(size), int(rank))
    with ShardWriter(shard) as writer:
        print("ready", flush=True)
        others = [path for path in find_shards(Path(name)) if path != shard]
        done = set(writer.finish_reasons).union(*map(read_ids, others))
        for index in range(int(rank), int(prompts), int(size)):
            prompt_id = f"{index:06}"
            if prompt_id not in done:
                time.sleep(float(pause))
                text = f"é{index} " * (index % 50)
                writer.append({"id": prompt_id, "output": text, "finish_reason": "stop"})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except ShardOwnedError as error:
        print(f"refused {error}", flush=True)
        sys.exit(1)
    except ShardTakenOverError as error:
        print(f"lost {error}", flush=True)
        sys.exit(1)
