"""What one launch has to do: its groups' shares of the prompts, and the run they belong to."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assembled_prompt import read_principle_prompt
from filter_settings import FilterSettings
from prompt_file import deal_prompts, read_prompts
from response_shards import (
    find_shards,
    hash_prompt_ids,
    manifest_path,
    parse_shard_name,
    read_ids,
    run_name,
)
from run_manifest import (
    RunManifest,
    hash_model_config,
    hash_records,
    hash_text,
    hash_tokenizer,
    hash_weights,
)


@dataclass(frozen=True)
class LaunchWork:
    """What rank 0 found on disk, for every rank of the launch."""

    shares: list[list[dict[str, Any]]]  # the prompts of each group in this launch, answered or not
    manifest: RunManifest
    principle_prompt: str
    filter_settings: FilterSettings


def look_up_work(args: argparse.Namespace) -> LaunchWork:
    """Reads and checks the prompts and holds this launch against the run's manifest, if any.

    Raises ValueError or FileNotFoundError for what the user has to put right; writes nothing.
    """
    prompts = read_prompts(args.input_file)
    principle_prompt = read_principle_prompt(args.prompt_file)
    filter_settings = FilterSettings.from_arguments(args)
    manifest = describe_run(args, prompts, principle_prompt, filter_settings)
    manifest.check(manifest_path(run_name(args.output_file)))
    wanted = {prompt["id"] for prompt in prompts[: args.limit]}
    groups = range(args.group_rank, args.group_rank + args.ranks.group_count)
    shares = [
        [
            prompt
            for prompt in deal_prompts(prompts, args.group_size, rank)
            if prompt["id"] in wanted
        ]
        for rank in groups
    ]
    return LaunchWork(shares, manifest, principle_prompt, filter_settings)


def describe_run(
    args: argparse.Namespace,
    prompts: list[dict[str, Any]],
    principle_prompt: str,
    filter_settings: FilterSettings,
) -> RunManifest:
    """The manifest of the run that these arguments ask for."""
    limited_ids = [prompt["id"] for prompt in prompts[: args.limit]]
    return RunManifest(
        model_config=hash_model_config(args.model_dir),
        weights=hash_weights(args.model_dir),
        tokenizer=hash_tokenizer(args.tokenizer_path or args.model_dir),
        principle_prompt=hash_text(principle_prompt),
        filter_rules="" if args.keep_going else hash_rules(filter_settings),
        keep_going=args.keep_going,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        max_own_tokens=args.max_own_tokens,
        dtype=args.dtype,
        prompt_file_hash=hash_records(prompts),
        prompts=len(limited_ids),
        prompt_ids_hash=hash_prompt_ids(limited_ids),
        input_file=str(args.input_file.resolve()),
    )


def hash_rules(filter_settings: FilterSettings) -> str:
    """SHA-256 of what decides which responses are given up."""
    return hash_text(json.dumps(asdict(filter_settings), sort_keys=True))


def ids_in_other_shards(name: Path, group_size: int) -> set[str]:
    """Ids answered in shards of the run that other group sizes wrote."""
    return {
        prompt_id
        for shard in find_shards(name)
        if parse_shard_name(shard)[1] != group_size
        for prompt_id in read_ids(shard)
    }
