"""Draws prompts from OpenOrca: a seeded uniform sample of each of its four collections.

Reads    OpenOrca parquet (columns `id` and `question`): files, folders, or a Hub data set.
Writes   a JSON array of prompt records, collection by collection, and beside it OUTPUT.report.json.

Natural-language-inference tasks, prompts that are too long and duplicates are left out. The same
rows and seed give the same file, whatever their order.

    python subsample_openorca_prompts.py --train_data_path 1M-GPT4-Augmented.parquet \
        --output_path openorca_prompts.json
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import (
    ScriptParser,
    add_rejects_argument,
    add_seed_argument,
    add_tokenizer_argument,
    comma_list,
    positive_integer,
    progress_bar,
    refuse_overwriting,
    run_script,
)
from preparation_report import PreparationReport
from prompt_collections import OPENORCA
from prompt_output import PromptOutput, output_files
from prompt_sources import find_sources
from token_lengths import TokenCounter

if TYPE_CHECKING:
    from openorca_sample import OpenOrcaBatch

ENDINGS = (".parquet",)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser("Draw a seeded uniform sample of OpenOrca's prompts.")
    parser.add_argument(
        "--train_data_path",
        type=comma_list,
        required=True,
        metavar="FILE|FOLDER|HUB_NAME,...",
        help="OpenOrca parquet files, folders of them, Hub data sets such as Open-Orca/OpenOrca",
    )
    parser.add_argument(
        "--output_path", type=Path, required=True, metavar="FILE", help="JSON file to write"
    )
    parser.add_argument(
        "--max_samples_per_dataset",
        type=positive_integer,
        default=10_000,
        metavar="INTEGER",
        help=f"prompts to draw from each collection ({', '.join(OPENORCA)})",
    )
    parser.add_argument(
        "--max_prompt_len",
        type=positive_integer,
        default=256,
        metavar="INTEGER",
        help="longest prompt, in tokens, with the cue that step 2 puts behind it",
    )
    add_tokenizer_argument(parser)
    add_seed_argument(parser, "the sample")
    add_rejects_argument(parser)
    args = parser.parse_args()
    outputs = output_files("--output_path", args.output_path, args.rejects_file)
    refuse_overwriting(parser, outputs, args.train_data_path, ENDINGS)
    return args


def main() -> None:
    """Parse, check, draw, write."""
    args = parse_args()
    from openorca_sample import OpenOrcaSampler, SamplingRules, read_openorca  # slow to import

    sources = find_sources(args.train_data_path, "--train_data_path", ENDINGS)
    counter = TokenCounter(args.tokenizer_name)
    rules = SamplingRules(args.max_samples_per_dataset, args.max_prompt_len, args.seed)

    def read_batches() -> Iterator["OpenOrcaBatch"]:
        with progress_bar("OpenOrca") as progress:
            for batch in read_openorca(sources):
                yield batch
                progress.update(len(batch.collections))

    files = [source.name for source in sources]
    settings = {**vars(rules), "tokenizer": counter.description, "files": files}
    report = PreparationReport("tokens", settings)
    with PromptOutput(args.output_path, report, args.rejects_file) as output:
        records, lengths = OpenOrcaSampler(rules, counter, output).draw(read_batches)
        output.finish(records, lengths)


if __name__ == "__main__":
    run_script(main)
