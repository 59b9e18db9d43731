"""Shows how far a generation run is; needs no GPU and may run at any time, on any machine.

Reads the manifest, the shards and their status files; writes nothing. Exit codes: 0 when every
prompt is answered, 3 while some are not, 1 where no run is (yet), 2 for files that belong to no
run. So a script can wait for a run:

    while python generation_progress.py --output_file NAME.jsonl; [ $? -eq 3 ]; do sleep 60; done
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filter_settings import number
from response_shards import (
    ShardName,
    find_shards,
    finish_reasons,
    manifest_path,
    parse_shard_name,
    run_name,
)
from run_manifest import RunManifest, hash_prompt_ids
from shard_writer import describe_launch, is_living, read_status
from tqdm import tqdm
from user_error import CommandLine, TryAgainError, UserError, run_script

EXIT_COMPLETE, EXIT_INCOMPLETE = 0, 3


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_file", type=Path, required=True, help="NAME.jsonl, as given to the generator"
    )
    parser.add_argument(
        "--stalled_after",
        type=number(float, 0),
        default=600,
        metavar="SECONDS",
        help="a group without a new response for longer than this stands still",
    )
    return parser.parse_args()


def main() -> int:
    """Prints the run's table; returns the exit code."""
    args = parse_args()
    run = run_name(args.output_file)
    shards = find_shards(run)
    if not manifest_path(run).exists():
        return report_missing_manifest(run, shards)
    answered = {shard: set(finish_reasons([shard])) for shard in shards}
    manifest = RunManifest.load(manifest_path(run))
    done = check_answers(manifest, answered)
    groups = look_at_groups(run, manifest, answered, args.stalled_after, done == manifest.prompts)
    print_table(run, groups, answered)
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


def report_missing_manifest(run: Path, shards: list[Path]) -> int:
    """Tells a run whose first launch is loading from one that isn't there."""
    loading = sum(map(is_living, shards))
    if not loading:
        found = "its launches ended before they answered anything" if shards else "and no shards"
        raise TryAgainError(f"no run is named {run}: no manifest, {found}")
    print(f"{run}: {loading} groups are loading the model, no prompt is answered yet")
    return EXIT_INCOMPLETE


def check_answers(manifest: RunManifest, answered: dict[Path, set[str]]) -> int:
    """The number of prompts answered; UserError if the shards answer another run's prompts."""
    ids = set().union(*answered.values())
    other = len(ids) == manifest.prompts and hash_prompt_ids(ids) != manifest.prompt_ids_hash
    if other or len(ids) > manifest.prompts:
        raise UserError(
            f"the shards answer {len(ids)} prompts, but not the {manifest.prompts} of the run's "
            "manifest; shards of another run lie among them"
        )
    return len(ids)


def look_at_groups(
    run: Path,
    manifest: RunManifest,
    answered: dict[Path, set[str]],
    stalled_after: float,
    complete: bool,
) -> list[GroupProgress]:
    """The groups of the group size in use: that of a living launch, else of the newest shard."""
    if not answered:
        return []
    newest = max(answered, key=lambda shard: (is_living(shard), min(mtime(shard), time.time())))
    size = parse_shard_name(newest).group_size
    groups = []
    for rank in range(size):
        first = ShardName(run, size, rank, 0)
        own = {s: ids for s, ids in answered.items() if parse_shard_name(s)[:3] == first[:3]}
        assigned = len(range(rank, manifest.prompts, size))
        groups.append(look_at_group(rank, own, assigned, stalled_after, complete))
    return groups


def look_at_group(
    rank: int, own: dict[Path, set[str]], assigned: int, stalled_after: float, complete: bool
) -> GroupProgress:
    """The progress of a group, from its shards in the order of their launches."""
    latest = next(reversed(own), None)
    status = read_status(latest) if latest else {}
    launch = status.get("latest_launch") or {}
    answered = len(set().union(*own.values()))
    if "answered_before" in launch:  # by other group sizes, too; the share may be limited
        answered = launch["answered_before"] + len(own[latest])
        assigned = status["prompts_assigned"]
    complete = complete or answered >= assigned
    living = latest is not None and is_living(latest)
    state = describe_state(latest, status, complete, living, stalled_after)
    if not living or complete:
        return GroupProgress(rank, answered, assigned, state)
    rates = launch.get("tokens_per_second"), launch.get("seconds_left")
    return GroupProgress(rank, answered, assigned, state, *rates)


def describe_state(
    latest: Path | None, status: dict[str, Any], complete: bool, living: bool, stalled_after: float
) -> str:
    """What a group does, in a few words."""
    if complete:
        return "complete"
    if latest is None:
        return "not started"
    silence = time.time() - mtime(latest)
    if silence > stalled_after:
        who = f"{describe_launch(status)} lives" if living else "no process"
        return f"STANDS STILL for {tqdm.format_interval(silence)}, {who}"
    if not living:
        return "no process"
    state = "loading" if status.get("state") == "loading" else "running"
    return f"{state} on {status.get('host', 'this machine')}"


def mtime(path: Path) -> float:
    """When a file last changed, in seconds; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def print_table(run: Path, groups: list[GroupProgress], answered: dict[Path, set[str]]) -> None:
    """Prints one line a group, and one about what other group sizes answered."""
    print(f"{run}, groups: {len(groups)}")
    print(f"{'group':>7} {'answered':>9} {'of':>9} {'tokens/s':>9} {'left':>9}  state")
    for group in groups:
        rate = "" if group.tokens_per_second is None else f"{group.tokens_per_second:.0f}"
        left = "" if group.seconds_left is None else tqdm.format_interval(group.seconds_left)
        print(
            f"{group.rank:>7} {group.answered:>9} {group.assigned:>9} {rate:>9} {left:>9}  "
            f"{group.state}"
        )
    others = [s for s in answered if parse_shard_name(s).group_size != len(groups)]
    if others:
        sizes = sorted({str(parse_shard_name(shard).group_size) for shard in others})
        ids = set().union(*(answered[shard] for shard in others))
        print(f"{'':>7} {len(ids):>9} of all by launches with --group_size {', '.join(sizes)}")


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
        rest = f"{rate:.0f} tokens/s, {tqdm.format_interval(max(times))} left"
    print(f"{done} of {prompts} prompts answered ({done / prompts:.1%}), {rest}")


if __name__ == "__main__":
    sys.exit(run_script(main))
