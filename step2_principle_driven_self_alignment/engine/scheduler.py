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
    """A prompt's own part: the text that follows the shared prefix."""

    id: str
    text: str


@dataclass(eq=False)
class Sequence:
    """A request on its way through the engine."""

    request: Request
    prompt_tokens: list[int]
    response: ResponseText = field(default_factory=ResponseText)
    output_tokens: int = 0
    finish_reason: str | None = None

    @property
    def own_length(self) -> int:
        """Tokens of the own part, prompt and response."""
        return len(self.prompt_tokens) + self.output_tokens


class Scheduler:
    """Hands free slots to waiting sequences, several at a time."""

    def __init__(self, waiting: Iterable[Sequence], slots: int, admission_size: int) -> None:
        self._waiting: Iterator[Sequence] = iter(waiting)
        self._next: deque[Sequence] = deque()
        self.slots = slots
        self.admission_size = min(admission_size, slots)
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
        # A prefill of many prompts at once would only need more memory for activations.
        admitted = [self._next.popleft() for _ in range(available)]
        self.live += admitted
        return admitted

    def release(self, slot: int) -> int:
        """Frees a slot; returns the slot whose sequence moves into it (itself, if it was last)."""
        last = len(self.live) - 1
        self.live[slot] = self.live[last]
        self.live.pop()
        return last

    def _peek(self, count: int) -> int:
        while len(self._next) < count:
            sequence = next(self._waiting, None)
            if sequence is None:
                break
            self._next.append(sequence)
        return min(count, len(self._next))
