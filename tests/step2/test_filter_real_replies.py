"""The rules on replies that people and assistants really wrote: few of them may be caught."""

import json
import random
from collections import Counter

import pytest
from filter_settings import FilterSettings, load_blacklist
from response_filters import ResponseFilter
from step2.merge_cases import OPENING, THOUGHTS


@pytest.fixture(scope="module")
def real_responses(shared_data):
    """Real prompts and replies, as responses in the right form."""
    raw = shared_data / "raw"
    rows = json.loads((raw / "alpaca_3000.json").read_text())[:1500]
    triples = [(row["instruction"], row["input"], row["output"]) for row in rows]
    for line in (raw / "dolly_sample.jsonl").read_text().splitlines()[:1500]:
        row = json.loads(line)
        triples.append((row["instruction"], row["context"], row["response"]))
    for conversation in json.loads((raw / "sharegpt_sample.json").read_text()):
        texts = [turn.get("value") or "" for turn in conversation["conversations"]]
        triples += [(texts[i], "", texts[i + 1]) for i in range(0, len(texts) - 1, 2)]
    return [
        {
            "instruction": instruction,
            "input": input_text,
            "output": f" {OPENING} {THOUGHTS}\n\nWatson: {reply}",
            "finish_reason": "stop",
        }
        for instruction, input_text, reply in triples
        if instruction.strip() and len(reply) > 200 and "User:" not in reply
    ]


@pytest.fixture(scope="module")
def rules(repository):
    blacklist = load_blacklist(repository / "prompts" / "exemplar_blacklist.txt")
    return ResponseFilter(FilterSettings(OPENING, blacklist))


def test_few_real_replies_are_caught(rules, real_responses):
    reasons = Counter(rules.judge(response).reason for response in real_responses)
    caught = Counter({reason: count for reason, count in reasons.items() if reason})
    assert len(real_responses) > 1000
    assert caught.total() < 0.05 * len(real_responses), caught
    assert caught.total() - caught["prompt_echo"] < 0.01 * len(real_responses), caught


def test_no_beginning_of_a_kept_real_reply_is_given_up(rules, real_responses):
    rng = random.Random(4)
    for response in rng.sample(real_responses, 400):
        if rules.judge(response).kept:
            text = response["output"]
            for end in [len(text), *(rng.randrange(len(text)) for _ in range(5))]:
                prompt = (response["instruction"], response["input"])
                assert rules.cannot_be_kept(*prompt, text[:end]) is None, (prompt, text[:end])


def test_a_reply_cut_by_a_limit_never_ends_in_mid_word(rules, real_responses):
    rng = random.Random(5)
    kept = 0
    for response in rng.sample(real_responses, 400):
        whole = response["output"].partition("\n\nWatson:")[2].strip()
        cut = response["output"][: rng.randrange(400, len(response["output"]) + 400)]
        verdict = rules.judge({**response, "output": cut, "finish_reason": "length"})
        if verdict.kept:
            kept += 1
            assert not verdict.finished
            assert whole.startswith(verdict.reply)
            rest = whole[len(verdict.reply) :]
            spaced = verdict.reply[-1].isascii() and rest[:1].isascii()
            assert not (spaced and verdict.reply[-1].isalnum() and rest[:1].isalnum()), cut[-80:]
    assert kept > 200
