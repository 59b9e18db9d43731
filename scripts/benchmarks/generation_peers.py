"""The ways of generating that the engine is compared with, here on transformers' own model.

Each has computed the shared prefix before it is timed, as the engine has.
"""

import ctypes
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from generation_workload import Workload
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation import ContinuousBatchingConfig, StoppingCriteria
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput

PAGE_TOKENS = {"cpu": 32, "cuda": 256}  # flash attention's block table takes multiples of 256
TIMEOUT = 600.0  # seconds without a response
STOP_SECONDS = 10.0  # for a background thread to end
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
LARGEST_TRIM_THRESHOLD, LARGEST_MMAP_THRESHOLD = 2**31 - 1, 2**25  # bytes


@dataclass(frozen=True)
class PeerRun:
    """One timed run; `tokens` are the responses, cut to their lengths, in the prompts' order."""

    seconds: float
    steps: int
    tokens: list[list[int]]

    @property
    def slot_steps(self) -> int:
        """Rows whose response was still growing, summed over the steps."""
        return sum(map(len, self.tokens))


class Peer(ABC):
    """A way of answering the prompts of a workload."""

    name: str

    def __init__(self, workload: Workload, slots: int) -> None:
        self.workload = workload
        self.slots = slots

    @abstractmethod
    def run(self, temperature: float, top_p: float) -> PeerRun:
        """Answers all prompts, to the end of the last response."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Gives back what the peer holds."""


class TransformersPeer(Peer):
    """A way that runs transformers' model, in this process."""

    def __init__(self, model: PreTrainedModel, workload: Workload, slots: int) -> None:
        super().__init__(workload, slots)
        self.model = model


def load_peer_model(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """transformers' model with its fastest attention that needs no further package."""
    if device.type == "cpu":
        keep_freed_memory()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def keep_freed_memory() -> None:
    """Has malloc keep what is freed, as PyTorch does on CUDA; glibc only.

    Left to itself it gives large pieces back, or not, by the luck of what else it holds. A way
    that copies the prefix at each step then takes up to three times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, LARGEST_TRIM_THRESHOLD)
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)


def sampling(temperature: float, top_p: float, **others: object) -> GenerationConfig:
    """transformers' settings for the engine's sampling: temperature and nucleus, nothing else."""
    settings = {"pad_token_id": 0, **others}
    if temperature == 0:
        return GenerationConfig(do_sample=False, **settings)
    return GenerationConfig(
        do_sample=True, temperature=temperature, top_p=top_p, top_k=0, **settings
    )


class EachAtItsLength(StoppingCriteria):
    """Ends each row of a batch at its own length; the batch ends with the last of them."""

    def __init__(self, start: int, lengths: torch.Tensor) -> None:
        """lengths: int64 [rows], new tokens behind the first `start`."""
        self.ends = start + lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


class StaticBatches(TransformersPeer):
    """`generate()` over batches of prompts, each batch to the end of its longest response.

    The prefix is computed once and repeated for the rows of each batch. Prompts are sorted by
    length, so that a batch holds little padding; responses' lengths are not known beforehand.
    """

    name = "static"

    def __init__(self, model: PreTrainedModel, workload: Workload, slots: int) -> None:
        super().__init__(model, workload, slots)
        with torch.inference_mode():
            prefix = torch.tensor([workload.prefix], device=model.device)
            cache = model(prefix, use_cache=True, logits_to_keep=1).past_key_values
        self.prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def run(self, temperature: float, top_p: float) -> PeerRun:
        order = sorted(
            range(len(self.workload.prompts)), key=lambda i: len(self.workload.prompts[i])
        )
        tokens: list[list[int]] = [[] for _ in order]
        steps = 0
        started = time.perf_counter()
        for start in range(0, len(order), self.slots):
            rows = order[start : start + self.slots]
            answers = self._generate(rows, sampling(temperature, top_p))
            steps += answers.shape[1]
            for row, answer in zip(rows, answers.tolist(), strict=True):
                tokens[row] = answer[: self.workload.lengths[row]]
        return PeerRun(time.perf_counter() - started, steps, tokens)

    def _generate(self, rows: list[int], config: GenerationConfig) -> torch.Tensor:
        """Answers to some prompts, int64 [rows, longest]."""
        prompts = [self.workload.prompts[row] for row in rows]
        lengths = torch.tensor([self.workload.lengths[row] for row in rows])
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        device = self.model.device
        ids = [
            self.workload.prefix + [0] * p + own for p, own in zip(padding, prompts, strict=True)
        ]
        input_ids = torch.tensor(ids, device=device)
        attention_mask = torch.ones_like(input_ids)
        for row, width in enumerate(padding):
            attention_mask[row, len(self.workload.prefix) :][:width] = 0
        config.max_new_tokens = int(lengths.max())
        output = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            past_key_values=self._cache(len(rows)),
            generation_config=config,
            stopping_criteria=[EachAtItsLength(input_ids.shape[1], lengths.to(device))],
        )
        return output[:, input_ids.shape[1] :]

    def _cache(self, rows: int) -> Cache:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


class CopiedPrefixLayer(DynamicLayer):
    """Keys and values of the rows' own parts; each step copies the prefix in front of each row."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: [1, kv_heads, prefix, head_dim]."""
        super().__init__()
        self.prefix_keys, self.prefix_values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states)
        rows = (len(keys), -1, -1, -1)
        return (
            torch.cat((self.prefix_keys.expand(rows), keys), dim=-2),
            torch.cat((self.prefix_values.expand(rows), values), dim=-2),
        )

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[-2] + super().get_seq_length()


class FirstImplementation(StaticBatches):
    """The algorithm of the method's first implementation.

    Attention written out in matrix products, a copy of the prefix for every sequence, layer and
    step, and no end before the longest response of the batch.
    """

    name = "first"

    def run(self, temperature: float, top_p: float) -> PeerRun:
        attention = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            return super().run(temperature, top_p)
        finally:
            self.model.set_attn_implementation(attention)

    def _cache(self, rows: int) -> Cache:
        return Cache(layers=[CopiedPrefixLayer(keys, values) for keys, values in self.prefix])


class ContinuousBatching(TransformersPeer):
    """transformers' continuous batching with a paged cache; full pages of the prefix are shared."""

    name = "continuous"

    def run(self, temperature: float, top_p: float) -> PeerRun:
        # A manager for each run: its cache must not hold the prompts of the run before, and while
        # its thread lives, that thread's OpenMP threads take a fifth of the other ways' speed.
        with self.model.continuous_batching_context_manager(
            generation_config=sampling(temperature, top_p, max_new_tokens=1),
            continuous_batching_config=self._batching(),
            timeout=STOP_SECONDS,
        ) as manager:
            # It computes the prefix, whose pages it keeps.
            manager.add_request(self.workload.prefix, max_new_tokens=1)
            next_result(manager)
            return self._run(manager)

    def _run(self, manager: ContinuousBatchingManager) -> PeerRun:
        workload = self.workload
        tokens: list[list[int]] = [[] for _ in workload.prompts]
        first_step = manager.current_batch
        started = time.perf_counter()
        rows = {}
        for row, (own, length) in enumerate(zip(workload.prompts, workload.lengths, strict=True)):
            rows[manager.add_request(workload.prefix + own, max_new_tokens=length)] = row
        for _ in rows:
            answer = next_result(manager)
            tokens[rows[answer.request_id]] = answer.generated_tokens
        return PeerRun(time.perf_counter() - started, manager.current_batch - first_step, tokens)

    def _batching(self) -> ContinuousBatchingConfig:
        page = PAGE_TOKENS[self.model.device.type]
        longest = len(self.workload.prefix) + self.workload.own_tokens
        return ContinuousBatchingConfig(
            page_size=page,
            num_blocks=(self.slots + 1) * (-(-longest // page) + 1),
            max_batch_tokens=max(self.slots, 512),
            max_requests_per_batch=self.slots,
        )


def next_result(manager: ContinuousBatchingManager) -> GenerationOutput:
    """The next finished response; RuntimeError with the thread's own error if there is none."""
    answer = manager.get_result(timeout=TIMEOUT)
    if answer is None or answer.error is not None:
        status = manager.background_thread_status
        raise RuntimeError(f"{answer.error if answer else status.fatal_error or 'no response'}")
    return answer


PEERS: dict[str, type[TransformersPeer]] = {
    peer.name: peer for peer in (StaticBatches, ContinuousBatching, FirstImplementation)
}
