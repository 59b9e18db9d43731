"""From responses to training records: judged in batches, on all CPU cores where there are many."""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from multiprocessing.connection import Connection
from typing import Any

from base_model_check import fits, measure_response, named_principles
from dummy_conversations import name_assistant
from filter_settings import FilterSettings
from filter_statistics import FilterStatistics, source_of
from prompt_format import joined_prompt
from response_filters import ResponseFilter
from response_text import Verdict, split_turns
from training_file import COLUMNS, encode_record, seeded_key
from user_error import TryAgainError

BATCH = 200  # responses that a process judges at a time
# What a response record has and a training record does not, or has otherwise
RESPONSE_FIELDS = frozenset(
    (*COLUMNS, "thoughts", "finish_reason", "prompt_tokens", "output_tokens")
)


@dataclass(frozen=True)
class JudgingSettings:
    """All that decides what becomes of a response."""

    rules: FilterSettings
    assistant_name: str
    seed: int
    keep_thoughts: bool = False
    principles: dict[int, str] = field(default_factory=dict)  # {} where they are not known
    measured_share: float = 1.0  # of the responses, which the check of the base model looks at


@dataclass
class JudgedBatch:
    """The kept responses as (id, encoded training record), and the counts over all of them."""

    kept: list[tuple[str, bytes]] = field(default_factory=list)
    statistics: FilterStatistics = field(default_factory=FilterStatistics)


def judge_all(
    records: Iterable[dict[str, Any]], settings: JudgingSettings, workers: int
) -> Iterator[JudgedBatch]:
    """Judges all records, in their order; the result is the same for any number of workers."""
    iterator = iter(records)
    batches = iter(lambda: list(islice(iterator, BATCH)), [])
    if workers <= 1:
        yield from (judge_batch(settings, batch) for batch in batches)
        return
    with judging_processes(settings, workers) as connections:
        waiting: deque[Connection] = deque()  # each has one batch, the oldest first
        try:
            for connection, batch in zip(cycle(connections), batches):
                if len(waiting) == workers:
                    yield receive(waiting.popleft())
                connection.send(batch)
                waiting.append(connection)
            while waiting:
                yield receive(waiting.popleft())
        except (EOFError, ConnectionError):
            raise TryAgainError(
                "a process that judged responses was killed, most likely for lack of memory; free "
                "some and start the merge again, or on one core: taskset -c 0 python …"
            ) from None


@contextmanager
def judging_processes(settings: JudgingSettings, workers: int) -> Iterator[list[Connection]]:
    """Processes that judge batches, each with a pipe of its own.

    Nobody else holds the other end, so the death of a process is seen even where it had written
    half of its answer; a ProcessPoolExecutor would wait for the other half for ever.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    try:
        for _ in range(workers):
            own, other = context.Pipe()
            process = context.Process(target=judge_batches, args=(other, settings), daemon=True)
            process.start()
            other.close()
            connections.append(own)
            processes.append(process)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join()


def judge_batches(connection: Connection, settings: JudgingSettings) -> None:
    """Answers batches until the pipe is closed. Ctrl-C is left to the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError):
        while True:
            batch = connection.recv()
            try:
                connection.send(judge_batch(settings, batch))
            except Exception as error:
                error.add_note(traceback.format_exc())
                connection.send(error)


def receive(connection: Connection) -> JudgedBatch:
    """The judged batch; raises what its process raised."""
    answer = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def judge_batch(settings: JudgingSettings, records: Iterable[dict[str, Any]]) -> JudgedBatch:
    """Judges response records that were checked on reading."""
    response_filter, dialogue = ResponseFilter(settings.rules), settings.rules.dialogue
    batch = JudgedBatch()
    for record in records:
        verdict = response_filter.judge(record)
        if verdict.kept:
            verdict = replace(verdict, reply=named_reply(verdict, settings))
            thoughts = split_turns(record["output"], dialogue).thoughts.strip()
            made = training_record(record, verdict, thoughts, settings)
            batch.kept.append((record["id"], encode_record(made)))
            batch.statistics.count_principles(named_principles(thoughts), settings.principles)
        batch.statistics.count(record, verdict, settings.seed)
        if seeded_key(settings.seed, f"measure {record['id']}") < settings.measured_share * 2**64:
            measured = measure_response(record, kept=verdict.kept, dialogue=dialogue)
            batch.statistics.measured.append(measured)
    return batch


def named_reply(verdict: Verdict, settings: JudgingSettings) -> str:
    """The reply with the assistant's name instead of the codename."""
    codename = settings.rules.dialogue.codename
    if settings.rules.published_rules:
        return verdict.reply.replace(codename, settings.assistant_name)
    prompt = joined_prompt(verdict.instruction, verdict.input)
    return name_assistant(verdict.reply, prompt, settings.assistant_name, codename)


def training_record(
    record: dict[str, Any], verdict: Verdict, thoughts: str, settings: JudgingSettings
) -> dict[str, Any]:
    """The training record of a kept response; fields that we don't know travel along."""
    named = named_principles(thoughts)
    return {
        "id": record["id"],
        "instruction": verdict.instruction,
        "input": verdict.input,
        "output": verdict.reply,
        "finished": verdict.finished,
        "source": source_of(record),
        "principles": sorted({p[0] for p in named if fits(p, settings.principles)}),
        **({"thoughts": thoughts} if settings.keep_thoughts else {}),
        **{name: value for name, value in record.items() if name not in RESPONSE_FIELDS},
    }
