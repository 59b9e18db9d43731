"""What is generated: a prefix, prompts behind it, and how long each response gets."""

import random
from dataclasses import dataclass, replace

from benchmark_model import text_of

PROMPT_TOKENS = (8, 96)  # of a prompt, drawn evenly
MEAN_RESPONSE_TOKENS = 64  # of an exponential distribution …
MAX_RESPONSE_TOKENS = 192  # … cut off here
LENGTHS = (
    f"exponential, mean {MEAN_RESPONSE_TOKENS}, at least 1 and at most {MAX_RESPONSE_TOKENS} tokens"
)


@dataclass(frozen=True)
class Workload:
    """Token ids of the prefix and of each prompt; how many tokens each response has."""

    prefix: list[int]
    prompts: list[list[int]]
    lengths: list[int]

    @property
    def useful_tokens(self) -> int:
        """Tokens of all responses: what a run is for."""
        return sum(self.lengths)

    @property
    def own_tokens(self) -> int:
        """The room that a slot needs: the longest prompt and the longest response."""
        return max(map(len, self.prompts)) + max(self.lengths)

    @property
    def prefix_text(self) -> str:
        """The prefix as text; its last word stands on a line of its own, as a turn's name does."""
        return f"{text_of(self.prefix[:-1])}\n{text_of(self.prefix[-1:])}"

    def first(self, count: int) -> "Workload":
        """The same with the first prompts only."""
        return replace(self, prompts=self.prompts[:count], lengths=self.lengths[:count])


def draw_workload(
    vocab_size: int, prefix_tokens: int, prompts: int, fixed_length: int | None, seed: int
) -> Workload:
    """Draws tokens and lengths; the first n prompts are the same however many are asked for."""
    lengths, words = random.Random(f"{seed} lengths"), random.Random(f"{seed} words")
    prefix = random.Random(f"{seed} prefix").choices(range(vocab_size), k=prefix_tokens)
    own = [
        words.choices(range(vocab_size), k=words.randint(*PROMPT_TOKENS)) for _ in range(prompts)
    ]
    drawn = [
        min(1 + int(lengths.expovariate(1 / MEAN_RESPONSE_TOKENS)), MAX_RESPONSE_TOKENS)
        for _ in range(prompts)
    ]
    return Workload(prefix, own, drawn if fixed_length is None else [fixed_length] * prompts)
