"""Make the identity conversations from the questions and answers in identity_texts.json.

Reads   identity_texts.json: a list of {"topic", "language", "questions", "answers"}, in which every
        answer fits every question of its entry. The merge of step 2 fills {assistant_name},
        {developer} and, in other languages than English, {developer_name}.
Writes  vicuna_dummy_data.json: ShareGPT conversations; one for each question with each answer, then
        `--follow_ups` drawn ones with a second exchange about another topic in the same language.

    python dummy_data/make_dummy_data.py
"""

import argparse
import json
import random
from itertools import product
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--texts_file", type=Path, default=FOLDER / "identity_texts.json")
    parser.add_argument("--output_file", type=Path, default=FOLDER / "vicuna_dummy_data.json")
    parser.add_argument("--follow_ups", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    entries = json.loads(args.texts_file.read_text(encoding="utf-8"))
    conversations = single_exchanges(entries)
    conversations += follow_up_conversations(entries, args.follow_ups, random.Random(args.seed))
    records = [
        {"id": f"identity_{number}", "conversations": turns(exchanges)}
        for number, exchanges in enumerate(dict.fromkeys(conversations))
    ]
    beside = args.output_file.with_suffix(".tmp")
    text = json.dumps(records, ensure_ascii=False, indent=1)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(args.output_file)
    print(f"{len(records)} conversations in {args.output_file}")


def single_exchanges(entries: list[dict]) -> list[tuple]:
    """Every question with every answer of its entry, as conversations of one exchange."""
    return [
        (exchange,)
        for entry in entries
        for exchange in product(entry["questions"], entry["answers"])
    ]


def follow_up_conversations(entries: list[dict], count: int, rng: random.Random) -> list[tuple]:
    """Conversations of two exchanges about two topics of one language."""
    pairs = [
        (first, second)
        for first in entries
        for second in entries
        if first is not second and first["language"] == second["language"]
    ]
    return [tuple(random_exchange(entry, rng) for entry in rng.choice(pairs)) for _ in range(count)]


def random_exchange(entry: dict, rng: random.Random) -> tuple[str, str]:
    return rng.choice(entry["questions"]), rng.choice(entry["answers"])


def turns(exchanges: tuple) -> list[dict]:
    """The exchanges as ShareGPT turns."""
    return [
        {"from": speaker, "value": text}
        for exchange in exchanges
        for speaker, text in zip(("human", "gpt"), exchange, strict=True)
    ]


if __name__ == "__main__":
    main()
