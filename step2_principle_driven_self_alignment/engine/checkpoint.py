"""Weights from a Hugging Face or a Meta folder; each rank reads only its own slices.

Both kinds are read under Hugging Face's tensor names. Nothing is executed from a checkpoint:
safetensors files hold plain tensors, and Meta's files are opened with `weights_only`.
"""

import pickle
import re
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from user_error import UserError

from engine.model_config import ConfigFile, refuse_lfs_pointer

META_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
META_SPLIT_BY_COLUMN = ("o_proj", "down_proj")
IGNORED = re.compile(r"rope\.freqs|.*\.rotary_emb\.inv_freq")


class Checkpoint(ABC):
    """Named matrices and vectors, read by slices; remembers what the model has a use for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._used: set[str] = set()

    @abstractmethod
    def names(self) -> set[str]:
        """The names of all tensors."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape."""

    @abstractmethod
    def _slice(self, name: str, rows: slice, columns: slice) -> torch.Tensor: ...

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises UserError, naming the tensor, if it is missing or has another shape."""
        if name not in self.names():
            raise UserError(f"{self.folder}: the tensor {name} is missing")
        if self.shape(name) != shape:
            raise UserError(
                f"{self.folder}: the tensor {name} has shape {list(self.shape(name))}; "
                f"the model's config asks for {list(shape)}"
            )
        # Here and not on reading: a rank that holds only padding reads nothing of it.
        self._used.add(name)

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """A slice of a matrix, or the rows of a vector."""
        return self._slice(name, rows, columns)

    def check_all_used(self) -> None:
        """Raises UserError naming a tensor that the model has no use for."""
        unused = sorted(name for name in self.names() - self._used if not IGNORED.fullmatch(name))
        if unused:
            raise UserError(
                f"{self.folder}: {len(unused)} tensors have no place in the model that its config "
                f"describes, first {unused[0]}"
            )

    def forget(self, name: str) -> None:
        """Counts a tensor as used: a copy of another one."""
        self._used.add(name)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens the weights of a model folder; UserError if there are none."""
    if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
        return MetaCheckpoint(folder)
    return SafetensorsCheckpoint(folder)


class SafetensorsCheckpoint(Checkpoint):
    """One `model.safetensors`, or several with an index."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._files = {file: _open_safetensors(file) for file in self._find_files()}
        self._file_of = {
            name: f for f, opened in self._files.items() for name in set(opened.keys())
        }

    def _find_files(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = ConfigFile(index).inner("weight_map").values
            files = [self.folder / name for name in sorted(set(weight_map.values()))]
        else:
            files = [self.folder / "model.safetensors"]
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"{file} does not exist; the weights must lie in {self.folder} as safetensors"
                )
        return files

    def names(self) -> set[str]:
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).get_shape())

    def _slice(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        tensor = self._tensor(name)
        return tensor[rows] if len(tensor.get_shape()) == 1 else tensor[rows, columns]

    def _tensor(self, name: str):
        return self._files[self._file_of[name]].get_slice(name)


class MetaCheckpoint(Checkpoint):
    """`consolidated.00.pth` …: tensors cut into equal parts by Meta's own tensor parallelism."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = sorted(folder.glob("consolidated.*.pth"))
        if not files:
            raise UserError(f"{folder} has no consolidated.*.pth beside params.json")
        self._params = ConfigFile(folder / "params.json").values
        self._parts: dict[str, list[torch.Tensor]] = {}
        for file in files:
            for name, part in _load_pickled(file).items():
                self._parts.setdefault(_hugging_face_name(name), []).append(part)

    def names(self) -> set[str]:
        return set(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        parts, axis = self._parts[name], self._axis(name)
        shape = list(parts[0].shape)
        if axis is not None:
            shape[axis] *= len(parts)
        return tuple(shape)

    def _axis(self, name: str) -> int | None:
        """Along which axis the parts of a tensor lie; None where each part is the whole."""
        part = self._parts[name][0]
        if part.dim() == 1 or len(self._parts[name]) == 1:
            return None
        if "embed_tokens" in name:  # LLaMA 1 and 2 cut it by columns, Llama 3 by rows
            return 1 if part.shape[1] < self._params["dim"] else 0
        return 1 if any(split in name for split in META_SPLIT_BY_COLUMN) else 0

    def _slice(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        parts, axis = self._parts[name], self._axis(name)
        if parts[0].dim() == 1:
            return parts[0][rows]
        if axis == 1:
            return _read_across([part[rows].T for part in parts], columns).T
        read = _read_across(parts if axis == 0 else parts[:1], rows)[:, columns]
        return self._half_split(read) if "q_proj" in name or "k_proj" in name else read

    def _half_split(self, heads: torch.Tensor) -> torch.Tensor:
        """Whole heads' rows, reordered: Meta rotates neighbours, Hugging Face a head's halves."""
        head_dim = self._params["dim"] // self._params["n_heads"]
        pairs = heads.reshape(-1, head_dim // 2, 2, heads.shape[1])  # [heads, pair, even/odd, in]
        return pairs.transpose(1, 2).reshape(heads.shape)


def _open_safetensors(file: Path) -> safe_open:
    refuse_lfs_pointer(file)
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{file} is damaged and can't be read: {error}") from error


def _load_pickled(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name; those of a zip archive, as torch writes since 1.6, are read when used."""
    refuse_lfs_pointer(file)
    try:
        return torch.load(file, mmap=zipfile.is_zipfile(file), weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} is damaged and can't be read: {error}") from error


def _read_across(parts: list[torch.Tensor], rows: slice) -> torch.Tensor:
    """Rows of a matrix whose equal parts are stacked, touching only the parts that hold them."""
    size = parts[0].shape[0]
    start, stop, _ = rows.indices(size * len(parts))
    pieces = [
        part[max(start - index * size, 0) : max(stop - index * size, 0)]
        for index, part in enumerate(parts)
    ]
    return torch.cat([piece for piece in pieces if len(piece)] or [parts[0][:0]])


def _hugging_face_name(name: str) -> str:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if match and match[2] in META_NAMES:
        return f"model.layers.{match[1]}.{META_NAMES[match[2]]}"
    return META_NAMES.get(name, name)
