"""Judges responses in batches, on all CPU cores where there are many."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from assistant_name import name_assistant
from filter_statistics import FilterStatistics, source_of
from response_filters import FilterSettings, ResponseFilter
from response_turns import CODENAME
from training_file import COLUMNS, encode_record
from verdict import Verdict

BATCH = 200
# What a response record has and a training record does not, or has otherwise
RESPONSE_FIELDS = frozenset((*COLUMNS, "finish_reason", "prompt_tokens", "output_tokens"))


@dataclass(frozen=True)
class JudgingSettings:
    """All that decides what becomes of a response."""

    rules: FilterSettings
    assistant_name: str
    seed: int


@dataclass
class JudgedBatch:
    """The kept responses as (id, encoded training record), and the counts over all of them."""

    kept: list[tuple[str, bytes]] = field(default_factory=list)
    statistics: FilterStatistics = field(default_factory=FilterStatistics)


def judge_batch(settings: JudgingSettings, records: Iterable[dict[str, Any]]) -> JudgedBatch:
    """Judges response records that were checked on reading."""
    response_filter = ResponseFilter(settings.rules)
    batch = JudgedBatch()
    for record in records:
        verdict = response_filter.judge(record)
        if verdict.kept:
            verdict = replace(verdict, reply=named_reply(verdict, settings))
            batch.kept.append((record["id"], encode_record(training_record(record, verdict))))
        batch.statistics.count(record, verdict, settings.seed)
    return batch


def named_reply(verdict: Verdict, settings: JudgingSettings) -> str:
    """The reply with the assistant's name instead of the codename."""
    if settings.rules.published_rules:
        return verdict.reply.replace(CODENAME, settings.assistant_name)
    prompt = f"{verdict.instruction}\n\n{verdict.input}"
    return name_assistant(verdict.reply, prompt, settings.assistant_name)


def training_record(record: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """The training record of a kept response; fields that we don't know travel along."""
    return {
        "id": record["id"],
        "instruction": verdict.instruction,
        "input": verdict.input,
        "output": verdict.reply,
        "finished": verdict.finished,
        "source": source_of(record),
        **{name: value for name, value in record.items() if name not in RESPONSE_FIELDS},
    }


def judge_all(
    records: Iterable[dict[str, Any]], settings: JudgingSettings, workers: int
) -> Iterator[JudgedBatch]:
    """Judges all records, in their order; the result is the same for any number of workers."""
    if workers <= 1:
        for batch in batched_lists(records):
            yield judge_batch(settings, batch)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        waiting: deque[Future[JudgedBatch]] = deque()
        try:
            for batch in batched_lists(records):
                waiting.append(executor.submit(judge_batch, settings, batch))
                if len(waiting) > 4 * workers:  # bounds what lies in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


def batched_lists(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The records in lists of BATCH, the last one shorter."""
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH)):
        yield batch
