"""Answers user prompts with a base model that is shown the principles and worked examples.

Reads:  --input_file, prompt records (.json, .jsonl or .parquet) with `instruction` and `input`;
        --prompt_file, the principle prompt that every user prompt is put behind;
        --model_dir, the base model (a Hugging Face or a Meta folder).
Writes: NAME_{GROUP_SIZE}shards_{GROUP_RANK}.jsonl (the next launch a file of its own, ….1.jsonl),
        one response record a line, each as soon as it is finished; beside it its status; and
        NAME.manifest.json, what the run is made of.

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
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_model_check import EarlyCheck, read_principles
from engine.launch_ranks import LaunchRanks, end_process
from filter_settings import FilterSettings, number
from generation_report import GenerationReport, share_counts
from prompt_file import deal_prompts, read_principle_prompt, read_prompts
from prompt_format import PromptFormat, read_prompt_format
from response_filters import ResponseFilter
from response_shards import find_shards, finish_reasons, manifest_path, run_name
from run_manifest import RunManifest, describe_run
from shard_writer import ShardWriter, complete_status
from tqdm.contrib.logging import logging_redirect_tqdm
from user_error import EXIT_DONE, CommandLine, UserError, run_script

if TYPE_CHECKING:  # torch takes seconds to import; a launch without work does without
    from engine.engine import Completion, Engine, EngineSettings, Request

logger = logging.getLogger("generate")

EXIT_DRAINED = 75
DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
DEFAULT_PROMPT_FILE = (
    Path(__file__).resolve().parent.parent / "prompts" / "watson_self_align_prompt.txt"
)


def parse_args() -> argparse.Namespace:
    """Reads the command line; usage errors end the program with code 2."""
    parser = CommandLine(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, help="folder of the base model")
    add("--input_file", type=Path, required=True, help="prompt records: .json, .jsonl or .parquet")
    add("--output_file", type=Path, required=True, help="NAME.jsonl; gives the shards their NAME")
    add("--tokenizer_path", type=Path, help="tokenizer file or folder, if not --model_dir")
    add("--prompt_file", type=Path, default=DEFAULT_PROMPT_FILE, help="the principle prompt")
    add(
        "--tensor_parallel",
        type=number(int, 1),
        help="processes a group; all of the launch if not given",
    )
    add(
        "--group_size",
        type=number(int, 1),
        help="groups of the run; those of this launch if not given",
    )
    add(
        "--group_rank",
        type=number(int, 0),
        default=0,
        help="index of this launch's first group in the run",
    )
    add("--slots", type=slot_count, default="auto", help="prompts at a time; auto: what fits")
    add(
        "--max_own_tokens",
        type=number(int, 1),
        default=768,
        help="tokens of user prompt and response",
    )
    add("--max_new_tokens", type=number(int, 1), default=512, help="tokens of a response")
    add("--temperature", type=number(float, 0), default=0.7, help="0 takes the likeliest token")
    add(
        "--top_p",
        type=number(float, 0, 1),
        default=0.95,
        help="mass of the nucleus that is sampled from",
    )
    add("--seed", type=int, default=42, help="seed of all random draws")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--keep_going", action="store_true", help="finish what the merge can't keep, too")
    add("--limit", type=number(int, 1), help="answer only the N prompts with the smallest ids")
    add("--dry_run", action="store_true", help="show memory plan, first prompt and token counts")
    add("--show", type=number(int, 0), default=0, metavar="N", help="log the first N responses")
    FilterSettings.add_arguments(parser)
    args = parser.parse_args()
    check_args(parser, args)
    return args


def slot_count(text: str) -> int | None:
    """A number of slots; None, for the engine to choose, where it is `auto`."""
    return None if text == "auto" else number(int, 1)(text)


def main() -> int:
    """Answers what is left of this launch's share of the prompts; returns the exit code."""
    args, drain = parse_args(), DrainSignal()
    start_logging(args)
    work = args.ranks.decide(lambda: look_up_work(args))
    code = show_dry_run(args, work) if args.dry_run else answer_rest(args, work, drain)
    args.ranks.leave()
    return code


def answer_rest(args: argparse.Namespace, work: "LaunchWork", drain: "DrainSignal") -> int:
    """Takes this launch's shards and answers what no shard of the run does; the exit code."""
    ranks, run = args.ranks, run_name(args.output_file)
    writer = ShardWriter(run, args.group_size, args.group_rank + ranks.group_index)
    with ExitStack() as opened:

        def take_shard() -> None:
            opened.enter_context(writer)

        ranks.ask_leaders(take_shard)
        answered = ranks.decide(lambda: find_answers(run, work))
        left = [
            [prompt for prompt in share if prompt["id"] not in answered] for share in work.shares
        ]
        if any(left) and any(ranks.ask_leaders(drain.is_requested)):
            logger.info("asked to stop before the start; start again to go on")
            ranks.leave()
            return EXIT_DRAINED
        engine = load_engine(args, work) if any(left) else None
        ranks.decide(lambda: work.manifest.join(manifest_path(run)))
        share, rest = work.shares[ranks.group_index], left[ranks.group_index]
        before = {
            prompt["id"]: answered[prompt["id"]] for prompt in share if prompt["id"] in answered
        }
        finished = True
        if rest:
            finished = answer_prompts(engine, rest, before, args, work, drain, writer)
        elif ranks.leads_group:
            logger.info("complete: all %d prompts of the group are answered already", len(share))
            complete_status(writer, share_counts(Counter(before.values()), len(share)))
    return EXIT_DONE if finished else EXIT_DRAINED


@dataclass(frozen=True)
class LaunchWork:
    """What rank 0 found on disk, for every rank of the launch."""

    shares: list[list[dict[str, Any]]]  # the prompts of each group in this launch, answered or not
    manifest: RunManifest
    principle_prompt: str
    rules: FilterSettings

    @property
    def dialogue(self) -> PromptFormat:
        return self.rules.dialogue


def look_up_work(args: argparse.Namespace) -> LaunchWork:
    """Reads and checks the prompts and holds this launch against the run's manifest, if any.

    Raises UserError for what the user has to put right; writes nothing.
    """
    prompts = read_prompts(args.input_file)
    dialogue = read_prompt_format(args.prompt_file)
    principle_prompt = read_principle_prompt(args.prompt_file, dialogue)
    rules = FilterSettings.from_arguments(args, dialogue)
    manifest = describe_run(args, prompts, principle_prompt, rules)
    if manifest.weights:
        manifest.check(manifest_path(run_name(args.output_file)))
    else:
        logger.warning("%s holds no weights yet; the run needs them", args.model_dir)
    wanted = {prompt["id"] for prompt in prompts[: args.limit]}
    groups = range(args.group_rank, args.group_rank + args.ranks.group_count)
    dealt = [deal_prompts(prompts, args.group_size, rank) for rank in groups]
    shares = [[prompt for prompt in share if prompt["id"] in wanted] for share in dealt]
    return LaunchWork(shares, manifest, principle_prompt, rules)


def find_answers(run: Path, work: LaunchWork) -> dict[str, str]:
    """The finish reasons, by id, of this launch's prompts that any shard of the run answers."""
    wanted = {prompt["id"] for share in work.shares for prompt in share}
    answers = finish_reasons(find_shards(run))
    return {prompt_id: reason for prompt_id, reason in answers.items() if prompt_id in wanted}


def load_engine(args: argparse.Namespace, work: LaunchWork) -> "Engine":
    """Loads the weights and computes the keys and values of the principle prompt."""
    from engine.engine import Engine

    logger.info("loading %s", args.model_dir)
    return Engine(engine_settings(args, work))


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
        prompt_format=work.dialogue,
        sampling=SamplingSettings(args.temperature, args.top_p, args.seed, args.max_new_tokens),
    )


def answer_prompts(
    engine: "Engine",
    prompts: list[dict[str, Any]],
    answered_before: dict[str, str],
    args: argparse.Namespace,
    work: LaunchWork,
    drain: "DrainSignal",
    writer: ShardWriter,
) -> bool:
    """Answers prompts until all are done or a drain is asked for; says whether all are done.

    Every rank of a group takes part; its leader alone writes and reports.
    """
    response_filter = ResponseFilter(work.rules) if work.dialogue.rules != "none" else None
    by_id = {prompt["id"]: prompt for prompt in prompts}
    may_give_up = response_filter is not None and not args.keep_going
    completions = engine.generate(
        requests_of(prompts, work.dialogue),
        give_up=giving_up(response_filter, by_id) if may_give_up else None,
        should_drain=drain.is_requested,
    )
    if not args.ranks.leads_group:
        return sum(1 for _ in completions) == len(prompts)
    assigned = len(answered_before) + len(prompts)
    report = GenerationReport(
        response_filter,
        work.dialogue,
        writer,
        answered_before,
        assigned,
        statistics=engine.statistics,
        slots=engine.slots,
        samples=args.show,
        check=EarlyCheck(list(by_id), read_principles(work.principle_prompt)),
    )
    with logging_redirect_tqdm(), report.running(bar=args.ranks.leads_launch):
        for completion in completions:
            record = response_record(by_id[completion.request.id], completion)
            writer.append(record)
            report.add(record)
    report.finish()
    return report.finished


def requests_of(prompts: list[dict[str, Any]], dialogue: PromptFormat) -> "list[Request]":
    """The engine's requests for prompt records."""
    from engine.engine import Request

    return [
        Request(prompt["id"], dialogue.own_part(prompt["instruction"], prompt["input"]))
        for prompt in prompts
    ]


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


def show_dry_run(args: argparse.Namespace, work: LaunchWork) -> int:
    """Shows memory plan, first prompt and token counts; loads no weights and writes nothing."""
    if not args.ranks.leads_launch:
        return EXIT_DONE
    from engine.engine import describe_gpus, plan_memory
    from engine.tokenizer import load_tokenizer

    settings = engine_settings(args, work)
    tokenizer = load_tokenizer(args.tokenizer_path or args.model_dir)
    own_parts = [request.text for request in requests_of(work.shares[0], work.dialogue)]
    counts = [
        len(tokenizer.encode_continuation(text, work.dialogue.ends_with)) for text in own_parts
    ]
    prefix = tokenizer.encode_prefix(work.principle_prompt, after_bos=work.dialogue.after_bos)
    room = args.max_own_tokens - args.max_new_tokens
    plan = plan_memory(settings)
    logger.info("%s", plan)
    logger.info("%s", describe_gpus(settings))
    if own_parts:
        logger.info("the first assembled prompt:\n%s%s", work.principle_prompt, own_parts[0])
    logger.info(
        "principle prompt: %d tokens; %d user prompts in this group: %d to %d tokens each, "
        "%d in all, %d too long for the %d that leave room for --max_new_tokens",
        *(len(prefix), len(counts)),
        *(min(counts, default=0), max(counts, default=0), sum(counts)),
        *(sum(count > room for count in counts), room),
    )
    plan.check()
    return EXIT_DONE


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses flags that can't work; fills in what depends on the launch."""
    try:
        args.ranks = LaunchRanks.from_environment(args.tensor_parallel)
    except UserError as error:
        parser.error(str(error))
    if args.group_size is None:
        args.group_size = args.ranks.group_count
    if args.top_p == 0:
        parser.error("--top_p is 0; give more than 0 (--temperature 0 takes the likeliest token)")
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
        for drain_signal in DRAIN_SIGNALS:
            signal.signal(drain_signal, self._remember)

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
    end_process(run_script(main, logger.error))
