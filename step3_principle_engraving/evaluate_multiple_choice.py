"""Step 3, measure: TruthfulQA and HHH-style multiple choice, base against engraved, side by side.

    python evaluate_multiple_choice.py --base_model BASE --engraved_model exported \\
        --data_files TruthfulQA.csv,hhh_pairs.json --output_file multiple_choice.json

All models answer the same questions, and every choice of every question is scored by its
log-likelihood. Prints a table with 95 % confidence intervals and writes it with all scores as JSON.
A data file is a .json, .jsonl, .csv or .parquet file, or NAME[:CONFIG] of a Hub data set.
`--principle_prompt_file` adds a row: the base model behind the principle prompt.
"""

import logging
import math
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any

import pandas
from compared_models import (
    BASE,
    ENGRAVED,
    READABLE,
    WITH_PRINCIPLES,
    EngravedDialogue,
    PrinciplesDialogue,
    add_model_flags,
    check_model_flags,
    context_length,
    load_model,
    read_principles,
    tokenizer_of,
)
from confidence_intervals import bootstrap_interval, wilson_interval
from dialogue_format import DEFAULT_META_PROMPTS, choose_meta_prompt
from engraving_command import CommandParser, UserError, run_command
from log_likelihoods import Continuation, log_likelihoods
from multiple_choice import Question, load_questions, question_score
from plain_files import write_json

logger = logging.getLogger("evaluate_multiple_choice")

TASKS = {"mc1": "MC1", "mc2": "MC2", "pairs": "pairs"}


def comma_list(text: str) -> list[str]:
    """`a,b` as ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_args() -> Namespace:
    parser = CommandParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add_model_flags(parser)
    add("--principle_prompt_file", type=Path, help="one more row: the base behind this prompt")
    add("--data_files", type=comma_list, required=True, help="files or Hub names, comma-separated")
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--system", default="standard", help="system prompt: a word of its name, or a text file")
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add("--batch_size", type=int, default=16, help="choices scored at once")
    add("--limit", type=int, help="only the first questions of each task of each file")
    add("--seed", type=int, default=42, help="of the bootstrap")
    args = parser.parse_args()
    check_model_flags(parser, args)
    if args.batch_size < 1 or (args.limit is not None and args.limit < 1) or args.seed < 0:
        parser.error("--batch_size and --limit must be 1 or more, --seed 0 or more")
    if not args.data_files:
        parser.error("--data_files names no file")
    if not args.output_file.parent.is_dir():
        parser.error(f"--output_file: no folder '{args.output_file.parent}'; make it first")
    return args


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    questions, left_out = load_questions(args.data_files, args.limit)
    encoded = encode_questions(args, questions)
    questions, encoded = leave_out_too_long(args, questions, encoded, left_out)
    for reason, count in left_out.items():
        logger.warning("left out: %d %s", count, reason)
    scores = score_choices(args, encoded)
    results = compare_tasks(questions, scores, args.seed)
    print(as_table(results))
    write_results(args, questions, left_out, scores, results)
    return 0


def encode_questions(
    args: Namespace, questions: Sequence[Question]
) -> dict[str, list[list[Continuation]]]:
    """For each model, each question and each choice: the prompt and the choice as token ids."""
    system = choose_meta_prompt(args.meta_prompt_pattern, args.system)
    dialogues: dict[str, Any] = dict.fromkeys((BASE, ENGRAVED), EngravedDialogue(system))
    if args.principle_prompt_file is not None:
        principles = read_principles(args.principle_prompt_file)
        dialogues[WITH_PRINCIPLES] = PrinciplesDialogue(principles)
    encoded = {}
    for side in filter(dialogues.__contains__, READABLE):
        tokenizer, dialogue = tokenizer_of(args, side), dialogues[side]
        encoded[side] = [
            [
                Continuation(prompt, dialogue.encode_reply(tokenizer, choice))
                for choice in question.choices
            ]
            for question in questions
            for prompt in [dialogue.encode(tokenizer, question.turns)]
        ]
    return encoded


def leave_out_too_long(
    args: Namespace, questions: list[Question], encoded: dict, left_out: Counter
) -> tuple[list[Question], dict]:
    """Drops questions that don't fit the context of one of the models, for all of them."""
    fits = [True] * len(questions)
    for side, rows in encoded.items():
        limit = context_length(args, side)
        for index, choices in enumerate(rows):
            fits[index] &= all(len(row.prompt) + len(row.text) <= limit for row in choices)
    if not any(fits):
        raise UserError(f"no question fits the models' context ({limit:,} tokens)")
    if not all(fits):
        left_out["longer than a model's context"] += fits.count(False)
    keep = partial(compress, selectors=fits)
    return list(keep(questions)), {side: list(keep(rows)) for side, rows in encoded.items()}


def score_choices(
    args: Namespace, encoded: dict[str, list[list[Continuation]]]
) -> dict[str, list[list[float]]]:
    """Log-likelihoods of all choices in nats, for each row of the table."""
    of_base = {side: rows for side, rows in encoded.items() if side != ENGRAVED}
    return {
        **score_model(args, BASE, of_base),
        **score_model(args, ENGRAVED, {ENGRAVED: encoded[ENGRAVED]}),
    }


def score_model(
    args: Namespace, weights: str, encoded: dict[str, list[list[Continuation]]]
) -> dict[str, list[list[float]]]:
    model = load_model(args, weights)
    scores = {}
    for side, questions in encoded.items():
        rows = list(chain.from_iterable(questions))
        values = log_likelihoods(model, rows, args.batch_size, f"scoring {READABLE[side]}")
        if not all(map(math.isfinite, values)):
            raise UserError(
                f"the {weights} model gives log-likelihoods that are no numbers: its weights are "
                "damaged, or too large for the dtype (try --dtype float32)"
            )
        remaining = iter(values)
        scores[side] = [list(islice(remaining, len(question))) for question in questions]
    return scores


# Results


def compare_tasks(
    questions: Sequence[Question], scores: dict[str, list[list[float]]], seed: int
) -> dict[str, dict[str, Any]]:
    """For each task, and each category of the pairs, the models' scores with their intervals."""
    table = pandas.DataFrame(
        {
            "task": [question.task for question in questions],
            "category": [question.category for question in questions],
            **{
                side: list(map(question_score, questions, log_likelihoods))
                for side, log_likelihoods in scores.items()
            },
        }
    )
    results = {}
    for task in (task for task in TASKS if task in set(table.task)):
        values = table[table.task == task]
        results[task] = compare(task, values[list(scores)], seed)
        if task == "pairs" and values.category.nunique() > 1:
            results[task]["categories"] = {
                category: compare(task, part[list(scores)], seed)
                for category, part in values.groupby("category")
            }
    return results


def compare(task: str, values: pandas.DataFrame, seed: int) -> dict[str, Any]:
    """Score and interval of each model, and of the gain by engraving (paired bootstrap)."""
    result: dict[str, Any] = {"questions": len(values)}
    for side, scores in values.items():
        if task == "mc2":
            interval = bootstrap_interval(scores, seed)
        else:
            interval = wilson_interval(round(scores.sum()), len(scores))
        result[side] = {"score": scores.mean(), "interval": interval}
    gains = values[ENGRAVED] - values[BASE]
    result["difference"] = {"score": gains.mean(), "interval": bootstrap_interval(gains, seed)}
    return result


def as_table(results: dict[str, dict]) -> str:
    """The results as text: a line for each task and category, a column for each model."""
    lines = []
    for task, result in results.items():
        lines.append({"task": TASKS[task], **_cells(result)})
        for category, part in result.get("categories", {}).items():
            lines.append({"task": f"  {category}", **_cells(part)})
    table = pandas.DataFrame(lines)
    width = table["task"].str.len().max()
    return table.to_string(index=False, formatters={"task": f"{{:<{width}}}".format})


def _cells(result: dict[str, Any]) -> dict[str, object]:
    cells: dict[str, object] = {"questions": result["questions"]}
    for column in (*READABLE, "difference"):
        if column in result:
            low, high = result[column]["interval"]
            name = READABLE.get(column, column)
            cells[name] = f"{result[column]['score']:.3f} [{low:.3f}, {high:.3f}]"
    return cells


def write_results(
    args: Namespace,
    questions: Sequence[Question],
    left_out: Counter,
    scores: dict[str, list[list[float]]],
    results: dict[str, dict],
) -> None:
    """Everything as JSON, written beside and renamed."""
    rows = [
        {
            "task": question.task,
            "category": question.category,
            "question": question.turns[-1],
            "earlier_turns": question.turns[:-1],
            "choices": question.choices,
            "labels": question.labels,
            **{f"{side}_log_likelihoods": scores[side][index] for side in scores},
        }
        for index, question in enumerate(questions)
    ]
    content = {
        "base_model": args.base_model,
        "engraved_model": args.engraved_model or str(args.adapter_dir),
        "data_files": args.data_files,
        "left_out": left_out,
        "results": results,
        "questions": rows,
    }
    write_json(args.output_file, content)


if __name__ == "__main__":
    run_command(main)
