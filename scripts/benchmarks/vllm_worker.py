"""vLLM's side of a generation benchmark: runs in an environment that has vLLM, apart from ours.

Reads JSON lines from stdin and answers each with one line on stdout. The first line is the work:
{"model": folder, "dtype": "bfloat16", "bytes_per_number": 2, "slots": n, "prefix": [ids],
"prompts": [[ids], …], "lengths": [n, …]}. The answer to it, {}, comes once the model is loaded
and compiled. Each later line, {"temperature": t, "top_p": p}, asks for one run: {"seconds": s,
"steps": n, "tokens": [[ids], …]}. Where something fails, the answer is {"error": text}. The end
of stdin ends the process. Everything that vLLM prints goes to stderr.

    python vllm_worker.py
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 32  # a page of the key/value cache; the CPU's attention takes multiples of 32


def main() -> None:
    """Load, then answer line by line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print to stdout, C code too, goes to stderr
    runs: VllmRuns | None = None
    for line in sys.stdin:
        try:
            message = json.loads(line)
            if runs is None:
                runs, answer = VllmRuns(message), {}
            else:
                answer = runs.run(**message)
        except Exception as error:  # whatever it is, the benchmark shows it as this way's result
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class VllmRuns:
    """vLLM with a loaded model, and the work that it is given."""

    def __init__(self, work: dict[str, Any]) -> None:
        """Loads and compiles; `work` is the first message, as described above."""
        from vllm import LLM

        self.prefix: list[int] = work["prefix"]
        self.prompts: list[list[int]] = work["prompts"]
        self.lengths: list[int] = work["lengths"]
        longest_own = max(map(len, self.prompts)) + max(self.lengths)
        self.llm = LLM(
            model=work["model"],
            dtype=work["dtype"],  # left to itself, vLLM takes float32 models in half precision
            skip_tokenizer_init=True,
            max_model_len=len(self.prefix) + longest_own,
            max_num_seqs=work["slots"],
            enable_prefix_caching=True,
            block_size=BLOCK_TOKENS,
            kv_cache_memory_bytes=self._cache_bytes(work, longest_own),
            disable_log_stats=True,
        )
        self.steps, step = 0, self.llm.llm_engine.step

        def counted() -> Any:
            self.steps += 1
            return step()

        self.llm.llm_engine.step = counted

    def _cache_bytes(self, work: dict[str, Any], longest_own: int) -> int:
        """Room for the prefix, once, and for the own parts of one sequence more than slots.

        Blocks beyond that would be kept from finished sequences and never be read again.
        """
        config = json.loads((Path(work["model"]) / "config.json").read_text(encoding="utf-8"))
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        numbers = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
        own_blocks = longest_own // BLOCK_TOKENS + 2  # the parts need not begin with a block
        blocks = len(self.prefix) // BLOCK_TOKENS + 2 + (work["slots"] + 1) * own_blocks
        return blocks * BLOCK_TOKENS * numbers * work["bytes_per_number"]

    def run(self, temperature: float, top_p: float) -> dict[str, Any]:
        """One timed run over all prompts. The cache holds the prefix, and nothing else."""
        # The prompts of the last run are forgotten, which vLLM would spare itself in this one.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM could not empty its prefix cache")
        self._generate([[]], [1], 0.0, 1.0)
        self.steps = 0
        started = time.perf_counter()
        outputs = self._generate(self.prompts, self.lengths, temperature, top_p)
        seconds = time.perf_counter() - started
        expected = len(self.prefix) // BLOCK_TOKENS * BLOCK_TOKENS
        if {output.num_cached_tokens for output in outputs} != {expected}:
            raise RuntimeError("vLLM's prompts did not find exactly the prefix in its cache")
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        return {"seconds": seconds, "steps": self.steps, "tokens": tokens}

    def _generate(
        self, prompts: list[list[int]], lengths: list[int], temperature: float, top_p: float
    ) -> list[Any]:
        """vLLM's outputs, in the order of the prompts."""
        from vllm import SamplingParams

        common = {"ignore_eos": True, "detokenize": False}
        sampling = [
            SamplingParams(temperature=temperature, top_p=top_p, max_tokens=length, **common)
            for length in lengths
        ]
        requests = [{"prompt_token_ids": self.prefix + own} for own in prompts]
        return self.llm.generate(requests, sampling, use_tqdm=False)


if __name__ == "__main__":
    main()
