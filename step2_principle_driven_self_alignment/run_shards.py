"""The shards of one run that a pattern names, held against the run's manifest."""

import glob
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from prompt_file import read_prompts
from prompt_format import SELF_ALIGN, PromptFormat
from response_shards import (
    SHARD_NAME,
    ResponseReader,
    find_shards,
    finish_reasons,
    manifest_path,
    parse_shard_name,
)
from run_manifest import RunManifest, hash_prompt_ids
from user_error import UserError

ALLOW = "or go on without them with --allow_missing"
SHOWN = 3  # ids, ranks or files that a message names before it goes on with "…"


@dataclass(frozen=True)
class RunShards:
    """Shards of one run, sorted; `manifest` is None for shards of older files and other tools."""

    name: Path
    paths: list[Path]
    manifest: RunManifest | None

    @property
    def dialogue(self) -> PromptFormat:
        """How the run's dialogue goes; the self-align one's without a manifest."""
        return self.manifest.dialogue if self.manifest else SELF_ALIGN

    @property
    def group_sizes(self) -> list[int]:
        """The group sizes that wrote the shards."""
        return sorted({parse_shard_name(path).group_size for path in self.paths})

    def missing_ranks(self) -> dict[int, list[int]]:
        """The ranks of each group size that no shard is from."""
        present = defaultdict(set)
        for path in self.paths:
            name = parse_shard_name(path)
            present[name.group_size].add(name.group_rank)
        gaps = {size: sorted(set(range(size)) - ranks) for size, ranks in present.items()}
        return {size: ranks for size, ranks in sorted(gaps.items()) if ranks}

    def describe_missing_ranks(self) -> str:
        """The missing ranks in words; "" if there are none."""
        return "; ".join(
            f"no shard of {'rank' if len(ranks) == 1 else 'ranks'} {shown(ranks)} of {size}"
            for size, ranks in self.missing_ranks().items()
        )


def find_run_shards(pattern: str) -> RunShards:
    """The shards that a glob pattern matches; other files that match are left aside.

    Raises UserError if there are none, if they are of several runs, or without a manifest and of
    several group sizes.
    """
    matches = [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207
    shards = [path for path in matches if SHARD_NAME.fullmatch(path.name) and path.is_file()]
    if not shards:
        found = f"{len(matches)} files, none of them" if matches else "no file"
        raise UserError(
            f"--data_file_pattern {pattern} matches {found} named "
            "NAME_{GROUP_SIZE}shards_{GROUP_RANK}.jsonl"
        )
    for path in shards:
        if parse_shard_name(path) is None:
            raise UserError(f"{path}: this rank is not below its group size; rename the shard")
    names = sorted({parse_shard_name(path).run for path in shards})
    if len(names) > 1:
        raise UserError(
            f"--data_file_pattern {pattern} matches shards of {len(names)} runs: "
            f"{shown(names)}. Merge one run at a time"
        )
    shards.sort(key=parse_shard_name)
    manifest = manifest_path(names[0])
    run = RunShards(names[0], shards, RunManifest.load(manifest) if manifest.exists() else None)
    if run.manifest is None and len(run.group_sizes) > 1:
        raise UserError(
            f"--data_file_pattern {pattern} matches shards of group sizes "
            f"{shown(run.group_sizes)}, and without {manifest} nothing tells whether they belong "
            "together. Give a pattern for one group size"
        )
    return run


def find_gaps(run: RunShards, reader: ResponseReader) -> str:
    """What the run's shards lack once they are read, in words; "" if every prompt is answered.

    Raises UserError if they answer prompts that are none of the run's.
    """
    if run.manifest is None:
        return _gaps_without_manifest(run, reader)
    answered = reader.answered
    if hash_prompt_ids(answered) == run.manifest.prompt_ids_hash:
        return ""
    prompt_ids = _prompt_ids(run.manifest)
    strangers = sorted(answered - prompt_ids) if prompt_ids else []
    missing_count = run.manifest.prompts - len(answered) + len(strangers)
    if strangers or missing_count <= 0:
        raise UserError(
            f"the shards answer prompts that are not of the run in {manifest_path(run.name)}"
            + (f": {shown(strangers)}" if strangers else "")
            + ". Remove the shards of the other run"
        )
    elsewhere = _answered_elsewhere(run, answered)
    missing = sorted((prompt_ids or set().union(*elsewhere.values())) - answered)
    return _describe_gaps(run, missing_count, missing, elsewhere)


def _gaps_without_manifest(run: RunShards, reader: ResponseReader) -> str:
    """Missing ranks, and torn lines: nothing tells whether their prompts are answered elsewhere."""
    gaps = [f"{path}: its last line is torn" for path in reader.torn]
    if run.missing_ranks():
        gaps.append(f"{run.describe_missing_ranks()}. Add them")
    return f"{'; '.join(gaps)}, {ALLOW}" if gaps else ""


def _prompt_ids(manifest: RunManifest) -> set[str]:
    """The ids of the run's prompts; empty if the prompt file has moved or changed since."""
    try:
        prompts = read_prompts(Path(manifest.input_file))
    except (OSError, UserError):
        return set()
    ids = [prompt["id"] for prompt in prompts][: manifest.prompts]
    return set(ids) if hash_prompt_ids(ids) == manifest.prompt_ids_hash else set()


def _answered_elsewhere(run: RunShards, answered: set[str]) -> dict[Path, set[str]]:
    """Which unanswered prompts the run's shards outside the pattern answer."""
    others = [path for path in find_shards(run.name) if path not in run.paths]
    found = {path: set(finish_reasons([path])) - answered for path in others}
    return {path: ids for path, ids in found.items() if ids}


def _describe_gaps(
    run: RunShards, missing_count: int, missing: list[str], elsewhere: dict[Path, set[str]]
) -> str:
    parts = [f"{missing_count} of {run.manifest.prompts} prompts have no answer"]
    if missing:
        parts[0] += f" (ids {shown(missing)})"
    if run.missing_ranks():
        parts.append(run.describe_missing_ranks())
    found = len(set().union(*elsewhere.values()))
    if found:
        parts.append(
            f"{found} of them are in {shown([path.name for path in elsewhere])}, which the pattern "
            f'leaves out: take --data_file_pattern "{run.name}_*shards_*.jsonl"'
        )
    if found < missing_count:
        parts.append("start the generation again to complete the run")
    return "; ".join(parts) + f", {ALLOW}"


def shown(items: list) -> str:
    """The first few items of a list, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
