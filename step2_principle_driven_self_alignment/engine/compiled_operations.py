"""The operations as C loops, compiled when the engine starts: half a second, nothing is kept."""

import ctypes
import functools
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from engine.operations import Operations

SOURCE = Path(__file__).with_suffix(".c")
LANES = 16  # heads are read in pieces of so many numbers
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # the value of the macro BFLOAT16
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
LINKED = ["-fopenmp", "-shared", "-fPIC", "-lm"]
# Arguments of each function in order: a tensor or None, an integer, a number.
KINDS = {"t": ctypes.c_void_p, "i": ctypes.c_int64, "n": ctypes.c_float}
SIGNATURES = {
    "add_norm": "ttttiin",
    "swiglu": "ttii",
    "place": "ttttttttiii",
    "weigh": "tttiiin",
    "attend_own": "tttttttttiiin",
    "draw": "tttttiinn",
}

logger = logging.getLogger(__name__)


@functools.cache
def compile_operations(head_dim: int, group: int, dtype: torch.dtype) -> Operations | None:
    """The operations for one model; None for a type or size of heads that the loops don't know.

    None, and a word of warning, where they can't be compiled.
    """
    if dtype not in DTYPES or head_dim % LANES:
        return None
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        logger.warning("no C compiler (gcc) is here: generation on this CPU will be slower")
        return None
    macros = {"HEAD_DIM": head_dim, "GROUP": group, "BFLOAT16": DTYPES[dtype]}
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    with tempfile.TemporaryDirectory(prefix="self_align_") as folder:
        library = f"{folder}/operations.so"
        command = [compiler, *FLAGS, *defined, str(SOURCE), "-o", library, *LINKED]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            return CompiledOperations(head_dim, ctypes.CDLL(library))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            logger.warning("generation on this CPU will be slower: %s: %s", compiler, reason)
            return None


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

    def place(
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
        group = count // kv_heads - 2
        queries = heads.new_empty(kv_heads, tokens * group, head_dim)
        addresses = _addresses(
            heads, cosines, sines, slots, positions, queries, own_keys, own_values
        )
        self._library.place(*addresses, tokens, kv_heads, own_tokens)
        return queries

    def weigh(self, scores: torch.Tensor, used: int) -> tuple[torch.Tensor, torch.Tensor]:
        highest = scores.new_empty(scores.shape[:2], dtype=torch.float32)
        totals = torch.empty_like(highest)
        addresses = _addresses(scores, highest, totals)
        self._library.weigh(*addresses, highest.numel(), scores.shape[-1], used, self.scale)
        return highest, totals

    def attend_own(
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
        self._library.attend_own(*addresses, tokens, kv_heads, own_tokens, self.scale)
        return outputs

    def draw(
        self,
        logits: torch.Tensor,
        keys: torch.Tensor,
        positions: torch.Tensor,
        temperature: float,
        top_p: float,
    ) -> torch.Tensor:
        tokens, scratch = torch.empty_like(keys), torch.empty(logits.shape)
        addresses = _addresses(logits, keys, positions, tokens, scratch)
        self._library.draw(*addresses, *logits.shape, temperature, top_p)
        return tokens


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
