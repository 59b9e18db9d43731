"""Make the small sample inputs of the quickstart, in the formats of the public data sets.

The prompts are synthetic; the tiny base model's training never used their wordings. Among them lie
rows that step 1 must leave out: repeated prompts, natural-language inference, prompts that are too
long, page residue, messages without an answer.

Writes, in ../quickstart_data: openorca_sample.parquet, sharegpt_value.json, sharegpt_markdown.json,
dolly_sample.jsonl, oasst_sample.jsonl.

    python scripts/tiny_base_model/make_quickstart_data.py
"""

import argparse
import json
import random
import uuid
from collections.abc import Iterable
from pathlib import Path

import pandas
from synthetic_conversations import Conversation, ConversationMaker

FOLDER = Path(__file__).resolve().parent
OPENORCA_PER_COLLECTION = 280
SHAREGPT_VALUE, SHAREGPT_MARKDOWN, DOLLY, OASST = 140, 60, 100, 100
LEFT_OUT = ("compare", "classify")  # the tiny model mixes up the topics of a comparison
INVENTED_SHARE = 0.2  # of the topics' words: fewer than in training, so that prompts read naturally
DOLLY_CATEGORIES = ("creative_writing", "brainstorming", "open_qa", "general_qa", "classification")
SYSTEM_PROMPT = "You are a helpful assistant. Give a short and friendly answer."
PAGE_RESIDUE = ("1 / 1", "Share Prompt", "\n \n \n \n 지금 번역하기", "2 / 2")
INFERENCE_TASKS = (
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?",
    'If "{premise}", can we conclude that "{hypothesis}"?\n'
    "OPTIONS:\n- yes\n- it is not possible to tell\n- no",
    'Premise: "{premise}" Hypothesis: "{hypothesis}" Is the hypothesis entailed by the premise?',
    "Does the hypothesis follow from the premise? Think step by step.\n"
    "[PREMISE]: {premise}\n[HYPOTHESIS]: {hypothesis}",
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=FOLDER.parent / "quickstart_data")
    parser.add_argument("--seed", type=int, default=2310, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    maker = ConversationMaker(args.seed, opening="", held_out=True)
    maker.kinds = {kind: texts for kind, texts in maker.kinds.items() if kind not in LEFT_OUT}
    maker.words.invented_share = INVENTED_SHARE
    rng = random.Random(args.seed)
    pandas.DataFrame(openorca_rows(maker, rng)).to_parquet(
        args.output_dir / "openorca_sample.parquet", index=False, compression="zstd"
    )
    write_json(args.output_dir / "sharegpt_value.json", sharegpt_rows(maker, "value"))
    write_json(args.output_dir / "sharegpt_markdown.json", sharegpt_rows(maker, "markdown"))
    write_jsonl(args.output_dir / "dolly_sample.jsonl", dolly_rows(maker))
    write_jsonl(args.output_dir / "oasst_sample.jsonl", oasst_rows(maker, rng))
    for path in sorted(args.output_dir.glob("*_*.*")):
        print(f"{path.stat().st_size:>7,} bytes  {path}")


def answer(exchange: Conversation) -> str:
    """The first sentence of the reply: no stage reads more of it, and the files stay small."""
    return exchange.reply.split(". ")[0].split("\n")[0].rstrip(".:") + "."


def openorca_rows(maker: ConversationMaker, rng: random.Random) -> list[dict]:
    """Rows of the four collections, shuffled, with an inference task in each and other rejects."""
    rows = []
    for collection in ("niv", "flan", "t0", "cot"):
        exchanges = [maker.conversation() for _ in range(OPENORCA_PER_COLLECTION)]
        rows += [openorca_row(collection, each.prompt, answer(each), rng) for each in exchanges]
    for collection, task in zip(("niv", "flan", "t0", "cot"), INFERENCE_TASKS, strict=True):
        hypothesis = "Someone is outdoors."
        question = task.format(premise="A man carries a kite to the beach.", hypothesis=hypothesis)
        rows.append(openorca_row(collection, question, "It does.", rng))
    rows += [openorca_row("flan", row["question"], row["response"], rng) for row in rows[:3]]
    passage = " ".join(maker.conversation("passage").prompt for _ in range(12))
    rows.append(openorca_row("t0", passage, "This text is too long for a prompt.", rng))
    rng.shuffle(rows)
    return rows


def openorca_row(collection: str, question: str, response: str, rng: random.Random) -> dict:
    return {
        "id": f"{collection}.{rng.randrange(10**6)}",
        "system_prompt": rng.choice(["", SYSTEM_PROMPT]),
        "question": question,
        "response": response,
    }


def sharegpt_rows(maker: ConversationMaker, key: str) -> list[dict]:
    """Conversations; every fourth first turn ends in residue; some go on in a second piece."""
    rows = []
    for number in range(SHAREGPT_VALUE if key == "value" else SHAREGPT_MARKDOWN):
        first, second = maker.conversation(), maker.conversation()
        name = f"{key[0]}{number:06d}"
        residue = PAGE_RESIDUE[number // 4 % len(PAGE_RESIDUE)] if number % 4 == 0 else ""
        rows.append({"id": f"{name}_0", "conversations": turns(first, key, residue)})
        if number % 6 == 0:  # a later piece of the same conversation, which opens with the answer
            rows.append({"id": f"{name}_1", "conversations": turns(second, key, "")[1:]})
    if key == "value":
        rows.append({"id": "v999999_0", "conversations": rows[1]["conversations"]})
    return rows


def turns(exchange: Conversation, key: str, residue: str) -> list[dict]:
    human = {"from": "human", key: exchange.prompt + residue}
    return [human, {"from": "gpt", key: answer(exchange)}]


def dolly_rows(maker: ConversationMaker) -> list[dict]:
    """Rows of the categories without a context, and three that come with one."""
    rows = [
        dolly_row(maker.conversation(), DOLLY_CATEGORIES[number % len(DOLLY_CATEGORIES)], "")
        for number in range(DOLLY)
    ]
    for category in ("closed_qa", "information_extraction", "summarization"):
        exchange = maker.conversation("passage")
        rows.append(dolly_row(exchange, category, f"A text about {exchange.topics[0]}."))
    return rows


def dolly_row(exchange: Conversation, category: str, context: str) -> dict:
    return {
        "instruction": exchange.prompt,
        "context": context,
        "response": answer(exchange),
        "category": category,
    }


def oasst_rows(maker: ConversationMaker, rng: random.Random) -> list[dict]:
    """Messages of small trees: a root with one or two ranked answers; two roots have none."""
    rows = []
    for number in range(OASST + 2):
        exchange = maker.conversation()
        root = oasst_message(exchange.prompt, "prompter", None, None, rng)
        rows.append(root)
        answers = 0 if number >= OASST else 1 + number % 2
        for rank in range(answers):
            rows.append(oasst_message(answer(exchange), "assistant", root, rank, rng))
    return rows


def oasst_message(
    text: str, role: str, parent: dict | None, rank: int | None, rng: random.Random
) -> dict:
    message_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return {
        "message_id": message_id,
        "parent_id": parent["message_id"] if parent else None,
        "text": text,
        "role": role,
        "lang": "en",
        "rank": rank,
        "deleted": False,
        "synthetic": False,
        "message_tree_id": parent["message_id"] if parent else message_id,
        "tree_state": "ready_for_export",
    }


def write_json(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
