"""Which prompts are alive, in which slot; plain Python, so that it is tested without a model.

Live sequences stay in the first slots without a gap: when one finishes, the last one moves into
its place. A step's tensors are then the first rows of the slots, and nothing is gathered.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engine.stopping import ResponseText


@dataclass(frozen=True)
class Request:
    """A prompt's own part: the text that follows the shared prefix.

    `max_new_tokens` bounds its response more tightly than the sampling settings do.
    """

    id: str
    text: str
    max_new_tokens: int | None = None


@dataclass(eq=False)
class Sequence:
    """A request on its way through the engine.

    `sampled_tokens` counts the tokens that the device has sampled or is about to, which can be one
    more than have arrived in `output_ids`.
    """

    request: Request
    prompt_tokens: list[int]
    max_new_tokens: int
    response: ResponseText = field(default_factory=ResponseText)
    output_ids: list[int] = field(default_factory=list)
    sampled_tokens: int = 0
    finish_reason: str | None = None

    @property
    def stored_tokens(self) -> int:
        """Tokens of the own part whose keys and values are stored, or are with the next step."""
        return len(self.prompt_tokens) + self.sampled_tokens


class Scheduler:
    """Hands free slots to waiting sequences, several at a time."""

    def __init__(
        self, waiting: Iterable[Sequence], slots: int, admission_size: int, admission_tokens: int
    ) -> None:
        """An admission takes at most `admission_tokens` prompt tokens, or a single prompt."""
        self._waiting: Iterator[Sequence] = iter(waiting)
        self._next: deque[Sequence] = deque()
        self.slots = slots
        self.admission_size = min(admission_size, slots)
        self.admission_tokens = admission_tokens
        self.live: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether any sequence is alive or waiting."""
        return bool(self.live) or self._peek(1) > 0

    def admit(self) -> list[Sequence]:
        """Moves waiting sequences into free slots, once enough are free for one prefill."""
        free = self.slots - len(self.live)
        available = self._peek(min(free, self.admission_size))
        if available == 0 or (self.live and free < self.admission_size):
            return []
        admitted, tokens = [], 0
        while len(admitted) < available:
            tokens += len(self._next[0].prompt_tokens)
            if admitted and tokens > self.admission_tokens:
                break
            admitted.append(self._next.popleft())
        self.live += admitted
        return admitted

    def release(self, sequence: Sequence) -> tuple[int, int]:
        """Frees a sequence's slot, and moves the last live sequence into it.

        Returns the slot and the one that the last sequence came from; equal, if it was the last.
        """
        slot, last = self.live.index(sequence), len(self.live) - 1
        self.live[slot] = self.live[last]
        self.live.pop()
        return slot, last

    def _peek(self, count: int) -> int:
        while len(self._next) < count:
            sequence = next(self._waiting, None)
            if sequence is None:
                break
            self._next.append(sequence)
        return min(count, len(self._next))
