"""What the engine must know about a model, read from a Hugging Face or a Meta folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_error import UserError

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TOKENIZER_NAMES = ("tokenizer.model", "tokenizer.json")
LFS_POINTER = b"version https://git-lfs"
# A family that is not among a setting's knows no such setting, whatever its config.json says.
UNSUPPORTED_SETTINGS = {
    "mlp_bias": ("llama",),
    "use_sliding_window": ("qwen2", "qwen3"),
    "quantization_config": SUPPORTED_FAMILIES,
}
FAMILIES_WITH_ATTENTION_BIAS = ("llama", "qwen3")  # if attention_bias says so; Qwen 2 always
META_FEED_FORWARD = 8 / 3  # of the model's width, before rounding; LLaMA paper, arXiv 2302.13971


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of low rotary frequencies; see `rotary_frequencies`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder-only transformer of the LLaMA kind."""

    family: str  # as in config.json, or "LLaMA 1" for a Meta folder of it
    hidden_size: int
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    feed_forward_size: int
    vocab_size: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | float | None = None  # a number divides all positions ("linear")
    max_positions: int = 2048
    sliding_window: int | None = None
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    head_norms: bool = False
    eos_token_ids: tuple[int, ...] = ()
    torch_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.query_heads % self.kv_heads:
            raise UserError(
                f"{self.query_heads} attention heads can't share {self.kv_heads} key/value heads "
                "evenly; the model's config is damaged"
            )


class ConfigFile:
    """A JSON file of a model's folder, whose values are checked as they are read."""

    def __init__(self, path: Path, values: dict[str, Any] | None = None) -> None:
        """Reads the file, or takes what lies inside one; UserError unless it is an object."""
        self.path = path
        self.values: Any = _read_json(path) if values is None else values
        if not isinstance(self.values, dict):
            raise UserError(f"{path} holds no settings: it must be a JSON object")

    def get(self, name: str, default: Any = None) -> Any:
        """A value that is there and not null, or the default."""
        value = self.values.get(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number above 0; UserError if it is another thing, or missing without default."""
        value = self._required(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{self.path}: {name} is {value!r}; it must be a whole number above 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._required(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise UserError(f"{self.path}: {name} is {value!r}; it must be a number above 0")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.path}: {name} is {value!r}; it must be true or false")
        return value

    def inner(self, name: str) -> "ConfigFile":
        """The settings in a field; empty if there are none."""
        return ConfigFile(self.path, self.get(name, {}))

    def _required(self, name: str, default: Any) -> Any:
        value = self.get(name, default)
        if value is None:
            raise UserError(f"{self.path} does not tell {name}")
        return value


def load_model_config(folder: Path) -> ModelConfig:
    """Reads `config.json` or `params.json`.

    Raises UserError if there is neither, or if the model isn't supported.
    """
    if (folder / "config.json").is_file():
        return _from_hugging_face(folder)
    if (folder / "params.json").is_file():
        return _from_meta(folder)
    raise UserError(
        f"{folder} has neither config.json (Hugging Face) nor params.json (Meta); give the folder "
        "of a model's checkpoint"
    )


def find_tokenizer(path: Path) -> list[Path]:
    """The tokenizer files at a path, which is one or a model's folder, the preferred one first.

    Meta keeps LLaMA 2's one folder up. UserError if there is none.
    """
    folders = [path]
    if (path / "params.json").is_file():
        folders.append(path.resolve().parent)
    candidates = [folder / name for folder in folders for name in TOKENIZER_NAMES]
    found = [file for file in (candidates if path.is_dir() else [path]) if file.is_file()]
    if not found:
        raise UserError(
            f"no tokenizer at {path}; give a tokenizer.model or tokenizer.json with "
            "--tokenizer_path, or a folder that holds one"
        )
    for file in found:
        refuse_lfs_pointer(file)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold weights; none, if it has none yet."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.pth"))


def refuse_lfs_pointer(path: Path) -> None:
    """UserError if a clone without Git LFS has left a pointer in a file's place."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(
                f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` in its folder "
                "fetches it"
            )


def _from_hugging_face(folder: Path) -> ModelConfig:
    config = ConfigFile(folder / "config.json")
    family = config.get("model_type")
    if family not in SUPPORTED_FAMILIES:
        raise UserError(
            f"{folder}: model_type {family!r} is not supported; supported are "
            f"{', '.join(SUPPORTED_FAMILIES)}"
        )
    _refuse_unsupported(folder, config)
    heads, width = config.count("num_attention_heads"), config.count("hidden_size")
    rope = config.inner("rope_parameters")
    scaling = config.inner("rope_scaling") if config.get("rope_scaling") else rope
    biased = family in FAMILIES_WITH_ATTENTION_BIAS and config.flag("attention_bias")
    return ModelConfig(
        family=family,
        hidden_size=width,
        layers=config.count("num_hidden_layers"),
        query_heads=heads,
        kv_heads=config.count("num_key_value_heads", heads),
        head_dim=config.count("head_dim", width // heads),
        feed_forward_size=config.count("intermediate_size"),
        vocab_size=config.count("vocab_size"),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        rope_theta=config.number("rope_theta", rope.number("rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(folder, scaling),
        max_positions=config.count("max_position_embeddings", 2048),
        sliding_window=config.count("sliding_window")
        if family == "mistral" and config.get("sliding_window") is not None
        else None,
        tied_embeddings=config.flag("tie_word_embeddings"),
        qkv_bias=biased or family == "qwen2",
        output_bias=biased,
        head_norms=family == "qwen3",
        eos_token_ids=_eos_token_ids(folder, config),
        torch_dtype=str(config.get("dtype") or config.get("torch_dtype", "float32")),
    )


def _eos_token_ids(folder: Path, config: ConfigFile) -> tuple[int, ...]:
    eos = config.get("eos_token_id", [])
    if (folder / "generation_config.json").is_file():
        eos = ConfigFile(folder / "generation_config.json").get("eos_token_id", eos)
    ids = eos if isinstance(eos, list) else [eos]
    return tuple(i for i in ids if isinstance(i, int) and i >= 0)


def _refuse_unsupported(folder: Path, config: ConfigFile) -> None:
    if config.get("hidden_act", "silu") != "silu":
        activation = config.get("hidden_act")
        raise UserError(f"{folder}: hidden_act {activation!r}; only 'silu' is supported")
    family = config.get("model_type")
    for name, families in UNSUPPORTED_SETTINGS.items():
        if family in families and config.get(name):
            raise UserError(f"{folder}: {name} is set; the engine does not support it")


def _rope_scaling(folder: Path, scaling: ConfigFile) -> RopeScaling | float | None:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return scaling.number("factor")
    if kind == "llama3":
        return RopeScaling(
            scaling.number("factor"),
            scaling.number("low_freq_factor"),
            scaling.number("high_freq_factor"),
            scaling.count("original_max_position_embeddings"),
        )
    raise UserError(
        f"{folder}: rope scaling {kind!r} is not supported; supported are default, linear, llama3"
    )


def _from_meta(folder: Path) -> ModelConfig:
    params = ConfigFile(folder / "params.json")
    heads, width = params.count("n_heads"), params.count("dim")
    rope_theta = params.number("rope_theta", 10000.0)
    scaled = params.flag("use_scaled_rope")
    stretch = params.number("rope_scaling_factor", 8.0)
    high = params.number("high_freq_factor", 4.0)
    vocab_size = params.get("vocab_size", -1)
    norm_epsilon = params.number("norm_eps")
    # A params.json doesn't tell: Llama 3.1 and on, Llama 3, LLaMA 2, LLaMA 1.
    is_llama_1 = rope_theta == 10000 and _is_llama_1(params)
    max_positions = 131072 if scaled else 8192 if rope_theta > 10000 else 4096
    return ModelConfig(
        family="LLaMA 1" if is_llama_1 else "llama",
        hidden_size=width,
        layers=params.count("n_layers"),
        query_heads=heads,
        kv_heads=params.count("n_kv_heads", heads),
        head_dim=width // heads,
        feed_forward_size=params.count("hidden_dim", _meta_feed_forward_size(params)),
        # LLaMA 1 and 2 leave it open.
        vocab_size=32000 if vocab_size == -1 else params.count("vocab_size"),
        norm_epsilon=norm_epsilon,
        rope_theta=rope_theta,
        rope_scaling=RopeScaling(stretch, 1.0, high, 8192) if scaled else None,
        max_positions=params.count("max_seq_len", 2048 if is_llama_1 else max_positions),
        eos_token_ids=(),
        torch_dtype="bfloat16",
    )


def _is_llama_1(params: ConfigFile) -> bool:
    """By what the two releases differ in: the norms of 7B and 13B, the shape of 30B and 65B."""
    shape = params.get("dim"), params.get("n_kv_heads")
    return params.get("norm_eps") == 1e-6 or shape in ((6656, None), (8192, None))


def _meta_feed_forward_size(params: ConfigFile) -> int | None:
    """The feed-forward width that Meta's code derives from a params.json; None if it tells it."""
    if params.get("hidden_dim") is not None:
        return None
    size = int(META_FEED_FORWARD * params.count("dim"))
    size = int(params.number("ffn_dim_multiplier", 1.0) * size)
    multiple = params.count("multiple_of")
    return multiple * -(-size // multiple)


def _read_json(path: Path) -> Any:
    refuse_lfs_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
