"""One call of `Engine.generate`: admits prompts, decodes them and finishes each where it ends."""

import resource
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from prompt_format import PromptFormat
from user_error import UserError

from engine.decoder import Decoder
from engine.sampler import SamplingSettings, noise_key
from engine.scheduler import Request, Scheduler, Sequence
from engine.stopping import ResponseText
from engine.tokenizer import Tokenizer

GIVE_UP_EVERY = 8  # tokens between two looks at whether a response can still be kept
NO_TOKEN = -1  # where the logits are no numbers

GiveUp = Callable[[Request, str], bool]


@dataclass
class EngineStatistics:
    """Counts, and seconds by stage: load, prefix, prefill, decode, sampling, text.

    On a GPU, which works behind the host's back (`asynchronous`), the last four are the host's own
    time, mostly spent waiting in "text"; their sum is right. `start_check`: see `StartCheck`.
    """

    prefix_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    asynchronous: bool = False
    start_check: dict[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def note_peak_memory(self, device: torch.device) -> None:
        """Reads the highest memory use so far: of the device, or of the process on CPU."""
        if device.type == "cuda":
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
        else:
            self.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Completion:
    """An answered request.

    `finish_reason`: `stop` (the user's next turn began), `eos`, `length`, `abandoned` (given up),
    or `too_long` (the prompt left no room for a response). `output_ids` are all tokens sampled,
    the end-of-sequence token or stop marker included.
    """

    request: Request
    text: str
    finish_reason: str
    prompt_tokens: int
    output_ids: tuple[int, ...]

    @property
    def output_tokens(self) -> int:
        """How many tokens were sampled."""
        return len(self.output_ids)


@dataclass(frozen=True)
class _Sampled:
    """Tokens on their way from the device: one for each of `sequences`."""

    sequences: list[Sequence]
    tokens: torch.Tensor
    arrived: torch.cuda.Event | None


class Generation:
    """The state of a run: live sequences in the first slots, and their tensors on the device.

    On CUDA a step is launched before the tokens of the one before it are read, so that the device
    never waits; a sequence that ended then costs one token sampled in vain, which is dropped.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        sampling: SamplingSettings,
        eos_ids: frozenset[int],
        statistics: EngineStatistics,
        give_up: GiveUp | None,
        prompt_format: PromptFormat,
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.eos_ids = eos_ids
        self.statistics = statistics
        self.give_up = give_up
        self.prompt_format = prompt_format
        forbidden = sorted(eos_ids) if prompt_format.forbid_eos else []
        self._forbidden = torch.tensor(forbidden, dtype=torch.int64, device=decoder.device)
        self.lag = 1 if decoder.device.type == "cuda" else 0
        self._sampled: deque[_Sampled] = deque()
        self._checksum = 0
        # A row each: the last token, its place in the own part, tokens sampled before, noise key.
        self._state = torch.zeros(4, decoder.slots, dtype=torch.int64, device=decoder.device)

    def waiting(
        self, requests: Iterable[Request], anchor: str, too_long: list[Completion]
    ) -> Iterator[Sequence]:
        """Tokenises requests as they are asked for; appends those without room to `too_long`."""
        for request in requests:
            token_ids = self.tokenizer.encode_continuation(request.text, anchor)
            limit = request.max_new_tokens or self.sampling.max_new_tokens
            if len(token_ids) + limit > self.decoder.own_tokens:
                too_long.append(Completion(request, "", "too_long", len(token_ids), ()))
            else:
                response = ResponseText(self.prompt_format)
                yield Sequence(request, token_ids, limit, response)

    @property
    def checksum(self) -> int:
        """Tells from the tokens that have arrived, in their order: equal on a group's ranks."""
        return self._checksum

    def step(self, scheduler: Scheduler) -> Iterator[Completion]:
        """Admits what can be admitted, samples one token for each live sequence."""
        while admitted := scheduler.admit():
            self._prefill(scheduler, admitted)
            yield from self._take_arrived(scheduler)
        if scheduler.live:
            self._decode(scheduler)
        yield from self._take_arrived(scheduler)

    def _prefill(self, scheduler: Scheduler, admitted: list[Sequence]) -> None:
        first, live = len(scheduler.live) - len(admitted), len(scheduler.live)
        state = [
            [0 for _ in admitted],
            [len(sequence.prompt_tokens) for sequence in admitted],
            [0 for _ in admitted],
            [noise_key(self.sampling.seed, sequence.request.id) for sequence in admitted],
        ]
        with self.statistics.stage("prefill"):
            self._state[:, first:live] = torch.tensor(state, device=self.decoder.device)
            prompts = [sequence.prompt_tokens for sequence in admitted]
            logits = self.decoder.prefill(prompts, first)
        self._sample(logits, admitted, first)
        self.statistics.prompt_tokens += sum(map(len, prompts))

    def _decode(self, scheduler: Scheduler) -> None:
        live = len(scheduler.live)
        with self.statistics.stage("decode"):
            logits = self.decoder.step(self._state[0, :live], self._state[1, :live])
            self._state[1, :live] += 1
        self._sample(logits, scheduler.live, 0)
        self.statistics.steps += 1
        self.statistics.slot_steps += live

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence], first: int) -> None:
        """Samples the next token of the sequences in the slots from `first` on."""
        slots = slice(first, first + len(sequences))
        with self.statistics.stage("sampling"):
            # A hidden state that overflowed makes all logits of its row NaN.
            is_finite = logits[:, 0].isfinite()
            if len(self._forbidden):
                with torch.inference_mode():
                    logits.index_fill_(1, self._forbidden, float("-inf"))
            _, _, sampled, keys = self._state[:, slots]
            tokens = self.decoder.sample(logits, keys, sampled, self.sampling)
            self._state[0, slots] = tokens
            self._state[2, slots] += 1
            tokens = tokens.where(is_finite, NO_TOKEN)
        for sequence in sequences:
            sequence.sampled_tokens += 1
        arrived = None
        if self.lag:
            # Only into pinned memory is a copy that the host does not wait for.
            pinned = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            tokens = pinned.copy_(tokens, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._sampled.append(_Sampled(list(sequences), tokens, arrived))

    def _take_arrived(self, scheduler: Scheduler) -> Iterator[Completion]:
        """Reads sampled tokens, all but the last `lag` steps'; all once nothing is alive."""
        while len(self._sampled) > self.lag or (self._sampled and not scheduler.live):
            sampled = self._sampled.popleft()
            if sampled.arrived is not None:
                sampled.arrived.synchronize()
            with self.statistics.stage("text"):
                finished = self._append(sampled.sequences, sampled.tokens.tolist())
            for sequence in finished:
                self._release(scheduler, sequence)
                yield self._completion(sequence)

    def _append(self, sequences: list[Sequence], tokens: list[int]) -> list[Sequence]:
        """Gives each sequence its token; returns those that ended with it."""
        ended = []
        self._checksum = zlib.crc32(array("q", tokens), self._checksum)
        for sequence, token in zip(sequences, tokens, strict=True):
            if sequence.finish_reason is None:
                self._append_token(sequence, token)
                self.statistics.output_tokens += 1
                if sequence.finish_reason is not None:
                    ended.append(sequence)
        return ended

    def _append_token(self, sequence: Sequence, token: int) -> None:
        if token == NO_TOKEN:
            raise UserError(
                f"the model's logits are NaN in the response to {sequence.request.id!r}, after "
                f"{len(sequence.output_ids)} tokens: {self.decoder.remedy}"
            )
        sequence.output_ids.append(token)
        count = len(sequence.output_ids)
        if token in self.eos_ids:
            sequence.finish_reason = "eos"
        elif sequence.response.append(self.tokenizer.bytes_of(token)):
            sequence.finish_reason = "stop"
        elif count >= sequence.max_new_tokens:
            sequence.finish_reason = "length"
        elif count % GIVE_UP_EVERY == 0 and self._is_hopeless(sequence):
            sequence.finish_reason = "abandoned"

    def _is_hopeless(self, sequence: Sequence) -> bool:
        if self.give_up is None:
            return False
        return self.give_up(sequence.request, sequence.response.text_so_far)

    def _release(self, scheduler: Scheduler, sequence: Sequence) -> None:
        """Frees a slot; the last live sequence moves into it."""
        target, source = scheduler.release(sequence)
        if source != target:
            with self.statistics.stage("decode"):
                tokens = scheduler.live[target].stored_tokens
                self.decoder.move(source, target, tokens)
                self._state[:, target] = self._state[:, source]

    def _completion(self, sequence: Sequence) -> Completion:
        return Completion(
            request=sequence.request,
            text=sequence.response.text,
            finish_reason=sequence.finish_reason,
            prompt_tokens=len(sequence.prompt_tokens),
            output_ids=tuple(sequence.output_ids),
        )
