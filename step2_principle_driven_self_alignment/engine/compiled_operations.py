"""The operations as C loops, compiled when the engine starts: half a second, nothing is kept."""

import contextlib
import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from engine.operations import Operations, TokenBatch

SOURCE = Path(__file__).with_suffix(".c")
FOLDER_PREFIX = "self_align_operations_"
LEFT_OVER_AFTER = 3600.0  # seconds; compiling takes one
LANES = 16  # heads are read in pieces of so many numbers
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # the value of the macro BFLOAT16
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
LINKED = ["-fopenmp", "-shared", "-fPIC", "-lm"]
# Arguments of each function in order: a tensor or None, an integer, a number.
KINDS = {"t": ctypes.c_void_p, "i": ctypes.c_int64, "n": ctypes.c_float}
SIGNATURES = {
    "add_norm": "ttttiin",
    "swiglu": "ttii",
    "rotary_cache_write": "ttttttttiii",
    "unnormalised_softmax": "tttiiin",
    "own_attention": "tttttttttiiin",
    "sample": "tttttiinn",
}

logger = logging.getLogger(__name__)


@functools.cache
def compile_operations(
    head_dim: int, queries_per_kv_head: int, dtype: torch.dtype
) -> Operations | None:
    """The operations for one model; None for a type or size of heads that the loops don't know.

    None, and a warning, where they can't be compiled.
    """
    if dtype not in DTYPES or head_dim % LANES:
        return None
    compiler = _find_compiler()
    if compiler is None:
        logger.warning("no C compiler (gcc) is here: generation on this CPU will be slower")
        return None
    macros = {"HEAD_DIM": head_dim, "QUERIES": queries_per_kv_head, "BFLOAT16": DTYPES[dtype]}
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        library = f"{folder}/operations.so"
        command = [*compiler, *FLAGS, *defined, str(SOURCE), "-o", library, *LINKED]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return CompiledOperations(head_dim, ctypes.CDLL(library))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            name = shlex.join(compiler)
            logger.warning("generation on this CPU will be slower: %s: %s", name, reason)
            return None


def _remove_leftovers() -> None:
    """Removes the folders of processes that were killed while they compiled."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process may be quicker
            status = folder.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > LEFT_OVER_AFTER:
                shutil.rmtree(folder)


def _find_compiler() -> list[str] | None:
    """The words of a command: CC may be more than one, as in "ccache gcc"."""
    named = shlex.split(os.environ.get("CC", ""))
    found = shutil.which("gcc") or shutil.which("cc")
    return named or (None if found is None else [found])


class CompiledOperations(Operations):
    """Tensors are contiguous, of the type that the library was compiled for."""

    def __init__(self, head_dim: int, library: ctypes.CDLL) -> None:
        super().__init__(head_dim)
        for name, signature in SIGNATURES.items():
            getattr(library, name).argtypes = [KINDS[kind] for kind in signature]
            getattr(library, name).restype = None
        self._library = library

    def add_norm(
        self, stream: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        outputs = torch.empty_like(stream)
        addresses = _addresses(stream, delta, weight, outputs)
        self._library.add_norm(*addresses, *stream.shape, epsilon)
        return outputs

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        outputs = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self._library.swiglu(*_addresses(gate_up, outputs), *outputs.shape)
        return outputs

    def rotary_cache_write(
        self,
        heads: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
    ) -> torch.Tensor:
        tokens, count, head_dim = heads.shape
        _, kv_heads, own_tokens, _ = own_keys.shape
        per_kv_head = count // kv_heads - 2
        queries = heads.new_empty(kv_heads, tokens * per_kv_head, head_dim)
        addresses = _addresses(
            heads, cosines, sines, slots, positions, queries, own_keys, own_values
        )
        self._library.rotary_cache_write(*addresses, tokens, kv_heads, own_tokens)
        return queries

    def _prefix_scores(
        self, batch: TokenBatch, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        # In the type of the model, which on a CPU is read and written in half the time.
        if batch.scores is None:
            batch.scores = queries.new_empty(*queries.shape[:2], keys.shape[1])
        return torch.bmm(queries, keys.transpose(1, 2), out=batch.scores)

    def unnormalised_softmax(
        self, scores: torch.Tensor, used: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        highest = scores.new_empty(scores.shape[:2], dtype=torch.float32)
        totals = torch.empty_like(highest)
        addresses = _addresses(scores, highest, totals)
        self._library.unnormalised_softmax(
            *addresses, highest.numel(), scores.shape[-1], used, self.scale
        )
        return highest, totals

    def own_attention(
        self,
        queries: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        prefix: torch.Tensor,
        highest: torch.Tensor,
        totals: torch.Tensor,
    ) -> torch.Tensor:
        kv_heads, rows, head_dim = queries.shape
        tokens, own_tokens = len(slots), own_keys.shape[2]
        outputs = queries.new_empty(tokens, kv_heads * rows // tokens, head_dim)
        addresses = _addresses(
            queries, own_keys, own_values, slots, positions, prefix, highest, totals, outputs
        )
        self._library.own_attention(*addresses, tokens, kv_heads, own_tokens, self.scale)
        return outputs

    def sample(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> torch.Tensor:
        tokens, scratch = torch.empty_like(keys), torch.empty(logits.shape)
        addresses = _addresses(logits, keys, positions, tokens, scratch)
        self._library.sample(*addresses, *logits.shape, temperature, top_p)
        return tokens


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
