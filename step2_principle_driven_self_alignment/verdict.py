"""What the filter decided about a response."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """`reason` is the name of the rule that drops the response, or None if it is kept.

    `evidence` is what that rule found. `reply`, `instruction` and `input` are the texts to train
    on; `finished` tells whether the reply really ended.
    """

    reason: str | None
    evidence: str
    reply: str
    finished: bool
    instruction: str
    input: str

    @property
    def kept(self) -> bool:
        return self.reason is None
