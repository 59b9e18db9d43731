"""Step 3, measure: TruthfulQA and HHH-style multiple choice, base against engraved, side by side.

    python evaluate_multiple_choice.py --base_model BASE --engraved_model exported \\
        --data_files TruthfulQA.csv,hhh_pairs.json --output_file multiple_choice.json

Both models see the same prompts, in the engraved format, and every choice of every question is
scored by its log-likelihood. Prints a table with 95 % confidence intervals and writes it with all
scores as JSON. A data file is a .json, .jsonl or .csv file, or NAME[:CONFIG] of a Hub data set.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import torch
from base_tokenizer import load_tokenizer
from confidence_intervals import bootstrap_interval, wilson_interval
from dialogue_format import DEFAULT_META_PROMPTS, MetaPrompt, choose_meta_prompt, engraved_prompt
from engraved_model import DTYPES, load_base_model
from engraving_data import DialogueTokenizer
from multiple_choice import (
    Question,
    choice_log_likelihoods,
    question_score,
    questions_of_rows,
    read_questions,
)

logger = logging.getLogger("evaluate_multiple_choice")

TASKS = {"mc1": "MC1", "mc2": "MC2", "pairs": "pairs"}


def comma_list(text: str) -> list[str]:
    """`a,b` as ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--base_model", required=True, help="the model before")
    add("--engraved_model", required=True, help="the exported model")
    add("--data_files", type=comma_list, required=True, help="files or Hub names, comma-separated")
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--system", default="standard", help="system prompt: a word of its name, or a text file")
    add("--meta_prompt_pattern", default=DEFAULT_META_PROMPTS, help="glob of the system prompts")
    add("--batch_size", type=int, default=16, help="choices scored at once")
    add("--limit", type=int, help="only the first questions of each file")
    add("--seed", type=int, default=42, help="of the bootstrap")
    add("--dtype", choices=sorted(DTYPES), help="of the weights; the models' own if left out")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--batch_size and --limit must be 1 or more")
    return args


def main() -> int:
    args = parse_args()
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    questions = [row for name in args.data_files for row in load_questions(name, args.limit)]
    system = choose_meta_prompt(args.meta_prompt_pattern, args.system)
    scores = {
        side: score_model(name, questions, system, args)
        for side, name in (("base", args.base_model), ("engraved", args.engraved_model))
    }
    results = {task: compare(task, questions, scores, args.seed) for task in tasks_of(questions)}
    print_table(results)
    write_results(args, questions, scores, results)
    return 0


def load_questions(name: str, limit: int | None) -> list[Question]:
    """Questions of a local file or a Hub data set."""
    if Path(name).suffix in (".json", ".jsonl", ".csv"):
        questions = read_questions(Path(name))
    else:
        questions = questions_of_rows(_hub_rows(name), name)
    kept: dict[str, int] = {}
    chosen = []
    for question in questions:
        kept[question.task] = kept.get(question.task, 0) + 1
        if limit is None or kept[question.task] <= limit:
            chosen.append(question)
    return chosen


def _hub_rows(name: str) -> list:
    import datasets

    path, _, config = name.partition(":")
    try:
        parts = datasets.load_dataset(path, config or None)
    except Exception as error:  # the library raises many kinds for a missing network
        raise ValueError(
            f"the Hub data set '{name}' can't be loaded ({str(error).splitlines()[0]}); "
            "--data_files also takes local .json, .jsonl and .csv files"
        ) from error
    return [row for part in parts.values() for row in part]


def score_model(
    name: str, questions: list[Question], system: MetaPrompt, args: argparse.Namespace
) -> list[list[float]]:
    """Log-likelihoods of all choices under one model."""
    tokenizer = DialogueTokenizer(load_tokenizer(name))
    model = load_base_model(name, dtype=DTYPES.get(args.dtype), device=args.device).eval()
    prompts = [engraved_prompt(system, question.text) for question in questions]
    return choice_log_likelihoods(model, tokenizer, prompts, questions, args.batch_size)


def tasks_of(questions: list[Question]) -> list[str]:
    found = {question.task for question in questions}
    return [task for task in TASKS if task in found]


def compare(
    task: str, questions: list[Question], scores: dict[str, list[list[float]]], seed: int
) -> dict[str, object]:
    """Score and interval of both models, and of their difference (paired bootstrap)."""
    values = {
        side: [
            question_score(question, row)
            for question, row in zip(questions, rows, strict=True)
            if question.task == task
        ]
        for side, rows in scores.items()
    }
    count = len(values["base"])
    result: dict[str, object] = {"questions": count}
    for side, row in values.items():
        if task == "mc2":
            interval = bootstrap_interval(row, seed)
        else:
            interval = wilson_interval(round(sum(row)), count)
        result[side] = {"score": sum(row) / count, "interval": interval}
    differences = [after - before for before, after in zip(*values.values(), strict=True)]
    result["difference"] = {
        "score": sum(differences) / count,
        "interval": bootstrap_interval(differences, seed),
    }
    return result


def print_table(results: dict[str, dict]) -> None:
    columns = ("base", "engraved", "difference")
    print(f"{'task':<6} {'questions':>9}  " + "".join(f"{name:<24}" for name in columns))
    for task, result in results.items():
        cells = [
            f"{result[name]['score']:.3f} [{result[name]['interval'][0]:.3f}, "
            f"{result[name]['interval'][1]:.3f}]"
            for name in columns
        ]
        print(f"{TASKS[task]:<6} {result['questions']:>9}  " + "".join(f"{c:<24}" for c in cells))


def write_results(
    args: argparse.Namespace,
    questions: list[Question],
    scores: dict[str, list[list[float]]],
    results: dict[str, dict],
) -> None:
    """Everything as JSON, written beside and renamed."""
    rows = [
        {
            "task": question.task,
            "question": question.text,
            "choices": question.choices,
            "labels": question.labels,
            **{f"{side}_log_likelihoods": scores[side][index] for side in scores},
        }
        for index, question in enumerate(questions)
    ]
    content = {
        "base_model": args.base_model,
        "engraved_model": args.engraved_model,
        "data_files": args.data_files,
        "results": results,
        "questions": rows,
    }
    partial = args.output_file.with_name(args.output_file.name + ".part")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(args.output_file)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
