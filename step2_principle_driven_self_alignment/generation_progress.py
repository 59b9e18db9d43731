"""Shows how far a generation run is; needs no GPU and may run at any time, on any machine.

Reads the manifest, the shards and the lock files of the run; writes nothing. Exit codes: 0 when
every prompt is answered, 3 while some are not, 1 for an error. So a script can wait for a run:

    until python generation_progress.py --output_file self_align.jsonl; do sleep 60; done
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from durations import format_seconds
from response_shards import (
    find_shards,
    hash_prompt_ids,
    manifest_path,
    parse_shard_name,
    read_ids,
    run_name,
    shard_path,
    summary_path,
)
from run_manifest import RunManifest
from shard_lock import ShardOwner, read_owner

EXIT_COMPLETE, EXIT_ERROR, EXIT_INCOMPLETE = 0, 1, 3


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output_file", type=Path, required=True, help="NAME.jsonl, as given to the generator"
    )
    parser.add_argument(
        "--stalled_after",
        type=float,
        default=600,
        metavar="SECONDS",
        help="a group without a new response for longer than this stands still",
    )
    return parser.parse_args()


def main() -> int:
    """Prints the run's table; returns the exit code."""
    args = parse_args()
    name = run_name(args.output_file)
    try:
        answered = {shard: set(read_ids(shard)) for shard in find_shards(name)}
        if not manifest_path(name).exists():
            return report_missing_manifest(name, answered)
        manifest = RunManifest.load(manifest_path(name))
        done = check_answers(manifest, answered)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    groups = look_at_groups(name, manifest, answered, args.stalled_after)
    print_table(name, groups, answered)
    print_total(done, manifest.prompts, groups)
    return EXIT_COMPLETE if done == manifest.prompts else EXIT_INCOMPLETE


@dataclass(frozen=True)
class GroupProgress:
    """How far one group is. Rates are those of its present launch; None without one."""

    rank: int
    answered: int
    assigned: int
    state: str
    tokens_per_second: float | None = None
    seconds_left: float | None = None


def report_missing_manifest(name: Path, answered: dict[Path, set[str]]) -> int:
    """Tells a run that only starts from one that isn't there."""
    if not answered:
        print(f"error: no run is named {name}: no manifest and no shards", file=sys.stderr)
        return EXIT_ERROR
    print(f"{name}: {len(answered)} shards are being started, no prompt is answered yet")
    return EXIT_INCOMPLETE


def check_answers(manifest: RunManifest, answered: dict[Path, set[str]]) -> int:
    """The number of prompts answered; ValueError if the shards answer another run's prompts."""
    ids = set().union(*answered.values())
    other = len(ids) == manifest.prompts and hash_prompt_ids(ids) != manifest.prompt_ids_hash
    if other or len(ids) > manifest.prompts:
        raise ValueError(
            f"the shards answer {len(ids)} prompts, but not the {manifest.prompts} of the run's "
            "manifest; shards of another run lie among them"
        )
    return len(ids)


def look_at_groups(
    name: Path, manifest: RunManifest, answered: dict[Path, set[str]], stalled_after: float
) -> list[GroupProgress]:
    """The groups of the group size in use: that of a living owner, else of the newest shard."""
    newest = max(answered, key=lambda shard: (living_owner(shard) is not None, mtime(shard)))
    size = parse_shard_name(newest)[1]
    elsewhere = sum(len(ids) for s, ids in answered.items() if parse_shard_name(s)[1] != size)
    groups = []
    for rank in range(size):
        shard = shard_path(name, size, rank)
        assigned = len(range(rank, manifest.prompts, size))
        if elsewhere:
            # How many of its prompts lie in shards of another group size, a group finds out when
            # it starts; before that they are taken to be spread evenly.
            assigned = told_assignment(shard) or assigned - elsewhere // size
        groups.append(look_at_group(shard, len(answered.get(shard, ())), assigned, stalled_after))
    return groups


def look_at_group(shard: Path, answered: int, assigned: int, stalled_after: float) -> GroupProgress:
    """The progress of the group that writes `shard`."""
    _, _, rank = parse_shard_name(shard)
    owner = living_owner(shard)
    state = describe_state(shard, owner, answered >= assigned, stalled_after)
    status = owner.status if owner else {}
    if not status.get("answered") or not status.get("seconds"):
        return GroupProgress(rank, answered, assigned, state)
    return GroupProgress(
        *(rank, answered, assigned, state),
        tokens_per_second=status["output_tokens"] / status["seconds"],
        seconds_left=(assigned - answered) * status["seconds"] / status["answered"],
    )


def describe_state(
    shard: Path, owner: ShardOwner | None, complete: bool, stalled_after: float
) -> str:
    """What the group of a shard does, in a few words."""
    if complete:
        return "complete"
    if not shard.exists():
        return "not started"
    silence = time.time() - mtime(shard)
    if silence > stalled_after:
        return f"STANDS STILL for {format_seconds(silence)}, " + (
            f"{owner} lives" if owner else "no process"
        )
    if owner is None:
        return "no process"
    return f"running on {owner.host}" if owner.status else f"loading on {owner.host}"


def living_owner(shard: Path) -> ShardOwner | None:
    """The living process that writes a shard, if any."""
    found = read_owner(shard)
    return found[0] if found is not None and found[0].is_alive(found[1], time.time()) else None


def told_assignment(shard: Path) -> int | None:
    """The number of prompts that the group itself wrote to its lock file or summary."""
    owner = read_owner(shard)
    if owner is not None and "assigned" in owner[0].status:
        return owner[0].status["assigned"]
    summary = summary_path(shard)
    if not summary.exists():
        return None
    return json.loads(summary.read_text(encoding="utf-8"))["prompts_assigned"]


def mtime(path: Path) -> float:
    """When a file last changed, in seconds; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def print_table(name: Path, groups: list[GroupProgress], answered: dict[Path, set[str]]) -> None:
    """Prints one line a group, and one a shard that another group size has left."""
    print(f"{name}, groups: {len(groups)}")
    print(f"{'group':>7} {'answered':>9} {'of':>9} {'tokens/s':>9} {'left':>9}  state")
    for group in groups:
        rate = "" if group.tokens_per_second is None else f"{group.tokens_per_second:.0f}"
        left = "" if group.seconds_left is None else format_seconds(group.seconds_left)
        print(
            f"{group.rank:>7} {group.answered:>9} {group.assigned:>9} {rate:>9} {left:>9}  "
            f"{group.state}"
        )
    for shard, ids in answered.items():
        if parse_shard_name(shard)[1] != len(groups):
            print(f"{'':>7} {len(ids):>9}   in {shard.name}, by another group size")


def print_total(done: int, prompts: int, groups: list[GroupProgress]) -> None:
    """Prints the sum over all groups; the time left is that of the slowest."""
    unfinished = [group for group in groups if group.state != "complete"]
    times = [group.seconds_left for group in unfinished]
    rate = sum(group.tokens_per_second or 0 for group in groups)
    if done == prompts:
        rest = "complete"
    elif not times or None in times:
        rest = f"{rate:.0f} tokens/s, time left unknown: not every group runs"
    else:
        rest = f"{rate:.0f} tokens/s, {format_seconds(max(times))} left"
    print(f"{done} of {prompts} prompts answered ({done / prompts:.1%}), {rest}")


if __name__ == "__main__":
    sys.exit(main())
