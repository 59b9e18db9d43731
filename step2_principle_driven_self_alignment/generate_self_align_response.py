"""Answers user prompts with a base model that is shown the principles and worked examples.

Reads:  --input_file, prompt records (.json, .jsonl or .parquet) with `instruction` and `input`;
        --prompt_file, the principle prompt that every user prompt is put behind;
        --model_dir, the base model (a Hugging Face or a Meta folder).
Writes: NAME_{GROUP_SIZE}shards_{GROUP_RANK}.jsonl, one response record a line, each as soon as it
        is finished; NAME.manifest.json, what the run is made of; and a summary beside each shard.

Started again, it goes on where it was, after any kind of death and with any number of groups. On
SIGTERM, SIGUSR1 or SIGUSR2 it takes no more prompts and exits with 75: start it again.
`--limit N` answers the N prompts with the smallest ids; it may be raised later in the same run.

    python generate_self_align_response.py --model_dir llama2_7b \\
        --input_file merged_prompts.json --output_file llama2_7b_self_align.jsonl

    torchrun --nproc_per_node 8 generate_self_align_response.py --model_dir llama2_70b \\
        --tensor_parallel 8 --input_file merged_prompts.json --output_file self_align.jsonl
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assembled_prompt import own_part
from engine.launch_ranks import LaunchRanks, OtherRankError
from filter_settings import FilterSettings
from generation_report import GenerationReport, complete_summary
from launch_work import LaunchWork, ids_in_other_shards, look_up_work
from response_filters import ResponseFilter
from response_shards import ShardWriter, manifest_path, run_name, shard_path
from shard_lock import ShardOwnedError, ShardTakenOverError
from tqdm.contrib.logging import logging_redirect_tqdm
from user_error import UserError

if TYPE_CHECKING:  # torch takes seconds to import; a launch without work does without
    from engine.engine import Completion, Engine, EngineSettings, Request

logger = logging.getLogger("generate")

EXIT_DONE, EXIT_ERROR, EXIT_UNMENDABLE, EXIT_DRAINED = 0, 1, 2, 75
DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
DEFAULT_PROMPT_FILE = (
    Path(__file__).resolve().parent.parent / "prompts" / "watson_self_align_prompt.txt"
)


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, help="folder of the base model")
    add("--input_file", type=Path, required=True, help="prompt records: .json, .jsonl or .parquet")
    add("--output_file", type=Path, required=True, help="NAME.jsonl; gives the shards their NAME")
    add("--tokenizer_path", type=Path, help="tokenizer file or folder, if not --model_dir")
    add("--prompt_file", type=Path, default=DEFAULT_PROMPT_FILE, help="the principle prompt")
    add("--tensor_parallel", type=int, help="processes a group; all of the launch if not given")
    add("--group_size", type=int, help="groups of the run; those of this launch if not given")
    add("--group_rank", type=int, default=0, help="index of this launch's first group in the run")
    add("--slots", type=int, default=64, help="prompts that are answered at a time")
    add("--max_own_tokens", type=int, default=768, help="tokens of user prompt and response")
    add("--max_new_tokens", type=int, default=512, help="tokens of a response")
    add("--temperature", type=float, default=0.7, help="0 takes the likeliest token")
    add("--top_p", type=float, default=0.95, help="mass of the nucleus that is sampled from")
    add("--seed", type=int, default=42, help="seed of all random draws")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--keep_going", action="store_true", help="finish what the merge can't keep, too")
    add("--limit", type=int, help="answer only the N prompts with the smallest ids")
    add("--dry_run", action="store_true", help="show memory plan, first prompt and token counts")
    add("--show", type=int, default=0, metavar="N", help="log the first N responses")
    FilterSettings.add_arguments(parser)
    args = parser.parse_args()
    check_args(parser, args)
    return args


def main() -> int:
    """Answers what is left of this launch's share of the prompts; returns the exit code."""
    args, drain = parse_args(), DrainSignal()
    start_logging(args)
    try:
        work = args.ranks.decide(lambda: look_up_work(args))
        code = show_plan(args, work) if args.dry_run else answer_rest(args, work, drain)
        args.ranks.leave()
        return code
    except OtherRankError:
        return EXIT_ERROR
    except UserError as error:
        logger.error("%s", error)
        return EXIT_UNMENDABLE
    except (ValueError, OSError, ShardOwnedError, ShardTakenOverError) as error:
        logger.error("%s", error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        logger.error("interrupted; the same command goes on from here")
        return EXIT_ERROR


def answer_rest(args: argparse.Namespace, work: LaunchWork, drain: "DrainSignal") -> int:
    """Takes this launch's shards, answers the prompts that they lack, returns the exit code."""
    ranks, name = args.ranks, run_name(args.output_file)
    writer = ShardWriter(shard_path(name, args.group_size, args.group_rank + ranks.group_index))
    with ExitStack() as opened:
        own_ids = ranks.ask_leaders(lambda: set(opened.enter_context(writer).finish_reasons))
        other_ids = ranks.decide(lambda: ids_in_other_shards(name, args.group_size))
        left = [
            [prompt for prompt in share if prompt["id"] not in ids | other_ids]
            for share, ids in zip(work.shares, own_ids, strict=True)
        ]
        if any(left) and any(ranks.ask_leaders(drain.is_requested)):
            logger.info("asked to stop before the start; start again to go on")
            return EXIT_DRAINED
        engine = load_engine(args, work) if any(left) else None
        ranks.decide(lambda: work.manifest.join(manifest_path(name)))
        prompts = left[ranks.group_index]
        if engine is not None and prompts:
            finished = answer_prompts(engine, prompts, args, work, drain, writer)
            return EXIT_DONE if finished else EXIT_DRAINED
        logger.info("complete: every prompt of %s is answered already", writer.path)
        if ranks.leads_group:
            complete_summary(writer)
    return EXIT_DONE


def answer_prompts(
    engine: "Engine",
    prompts: list[dict[str, Any]],
    args: argparse.Namespace,
    work: LaunchWork,
    drain: "DrainSignal",
    writer: ShardWriter,
) -> bool:
    """Answers prompts until all are done or a drain is asked for; says whether all are done.

    Every rank of a group takes part; its leader alone writes and reports.
    """
    response_filter = ResponseFilter(work.filter_settings)
    by_id = {prompt["id"]: prompt for prompt in prompts}
    completions = engine.generate(
        requests_of(prompts),
        give_up=None if args.keep_going else giving_up(response_filter, by_id),
        should_drain=drain.is_requested,
    )
    if not args.ranks.leads_group:
        return sum(1 for _ in completions) == len(prompts)
    report = GenerationReport(response_filter, writer, len(prompts), samples=args.show)
    with logging_redirect_tqdm(), report.running(bar=args.ranks.leads_launch):
        for completion in completions:
            record = response_record(by_id[completion.request.id], completion)
            writer.append(record)
            report.add(record)
    report.finish(engine.statistics)
    return report.finished


def requests_of(prompts: list[dict[str, Any]]) -> "list[Request]":
    """The engine's requests for prompt records."""
    from engine.engine import Request

    return [Request(p["id"], own_part(p["instruction"], p["input"])) for p in prompts]


def giving_up(
    response_filter: ResponseFilter, by_id: dict[str, dict[str, Any]]
) -> "Callable[[Request, str], bool]":
    """Tells the engine which started responses the merge can't keep any more."""

    def give_up(request: "Request", text: str) -> bool:
        prompt = by_id[request.id]
        reason = response_filter.cannot_be_kept(prompt["instruction"], prompt["input"], text)
        return reason is not None

    return give_up


def response_record(prompt: dict[str, Any], completion: "Completion") -> dict[str, Any]:
    """The row of a shard; the prompt's other fields travel along."""
    return {
        "id": prompt["id"],
        **prompt,
        "output": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "output_tokens": completion.output_tokens,
    }


def load_engine(args: argparse.Namespace, work: LaunchWork) -> "Engine":
    """Loads the weights and computes the keys and values of the principle prompt."""
    from engine.engine import Engine

    logger.info("loading %s", args.model_dir)
    return Engine(engine_settings(args, work))


def show_plan(args: argparse.Namespace, work: LaunchWork) -> int:
    """Shows what a launch would do; loads no weights and writes nothing."""
    from dry_run import show_dry_run

    if args.ranks.leads_launch:
        show_dry_run(engine_settings(args, work), work)
    return EXIT_DONE


def engine_settings(args: argparse.Namespace, work: LaunchWork) -> "EngineSettings":
    """The engine's settings for these arguments."""
    from engine.engine import EngineSettings, SamplingSettings

    return EngineSettings(
        model_dir=args.model_dir,
        prefix_text=work.principle_prompt,
        tokenizer_path=args.tokenizer_path,
        slots=args.slots,
        max_own_tokens=args.max_own_tokens,
        dtype=args.dtype,
        device=args.device,
        tensor_parallel=args.ranks.tensor_parallel,
        sampling=SamplingSettings(args.temperature, args.top_p, args.seed, args.max_new_tokens),
    )


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses flags that can't work; fills in what depends on the launch."""
    try:
        args.ranks = LaunchRanks.from_environment(args.tensor_parallel)
    except UserError as error:
        parser.error(str(error))
    if args.group_size is None:
        args.group_size = args.ranks.group_count
    least = dict.fromkeys(("slots", "max_own_tokens", "max_new_tokens", "group_size"), 1)
    for name, limit in {**least, "group_rank": 0, "temperature": 0, "show": 0}.items():
        if getattr(args, name) < limit:
            parser.error(f"--{name} is {getattr(args, name)}; give {limit} or more")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}; give 1 or more, or leave it out")
    if not 0 < args.top_p <= 1:
        parser.error(f"--top_p is {args.top_p}; give more than 0 and at most 1")
    if args.group_rank + args.ranks.group_count > args.group_size:
        parser.error(
            f"--group_rank {args.group_rank} with {args.ranks.group_count} groups in this launch "
            f"goes beyond --group_size {args.group_size}; group ranks count from 0"
        )
    if args.output_file.suffix not in ("", ".jsonl") or args.output_file.is_dir():
        parser.error(f"--output_file is {args.output_file}; give a name that ends with .jsonl")


class DrainSignal:
    """Remembers that the system asked this process to stop."""

    def __init__(self) -> None:
        self._received = ""
        for number in DRAIN_SIGNALS:
            signal.signal(number, self._remember)

    def is_requested(self) -> bool:
        """Whether one of DRAIN_SIGNALS has arrived."""
        return bool(self._received)

    def _remember(self, number: int, _frame: object) -> None:
        self._received = signal.Signals(number).name


def start_logging(args: argparse.Namespace) -> None:
    """Logs to stderr: what group leaders do, and the other ranks' warnings."""
    ranks: LaunchRanks = args.ranks
    group = args.group_rank + ranks.group_index
    place = f" group {group} of {args.group_size}" if args.group_size > 1 else ""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if ranks.leads_group else logging.WARNING,
        format=f"%(asctime)s %(levelname)s{place}: %(message)s",
        datefmt="%H:%M:%S",
    )


if __name__ == "__main__":
    sys.exit(main())
