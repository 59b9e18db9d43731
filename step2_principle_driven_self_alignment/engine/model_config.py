"""What the engine must know about a model, read from a Hugging Face or a Meta folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_error import UserError

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HUGGING_FACE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
META_FIELDS = ("dim", "n_layers", "n_heads", "norm_eps")
ROPE_FIELDS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
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

    family: str
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


def _from_hugging_face(folder: Path) -> ModelConfig:
    config = _read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in SUPPORTED_FAMILIES:
        raise UserError(
            f"{folder}: model_type {family!r} is not supported; supported are "
            f"{', '.join(SUPPORTED_FAMILIES)}"
        )
    _require(folder / "config.json", config, HUGGING_FACE_FIELDS)
    _refuse_unsupported(folder, config)
    generation = folder / "generation_config.json"
    eos = config.get("eos_token_id")
    if generation.is_file():
        eos = _read_json(generation).get("eos_token_id", eos)
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    return ModelConfig(
        family=family,
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        query_heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(folder, config.get("rope_scaling") or rope),
        max_positions=config.get("max_position_embeddings", 2048),
        sliding_window=config.get("sliding_window") if family == "mistral" else None,
        tied_embeddings=config.get("tie_word_embeddings", False),
        qkv_bias=config.get("attention_bias", family == "qwen2"),
        output_bias=config.get("attention_bias", False) and family != "qwen2",
        head_norms=family == "qwen3",
        eos_token_ids=_as_tuple(eos),
        torch_dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
    )


def _refuse_unsupported(folder: Path, config: dict[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"{folder}: hidden_act {config['hidden_act']!r}; only 'silu' is supported")
    for name in ("mlp_bias", "use_sliding_window", "quantization_config"):
        if config.get(name):
            raise UserError(f"{folder}: {name} is set; the engine does not support it")


def _rope_scaling(folder: Path, scaling: dict[str, Any]) -> RopeScaling | float | None:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        _require(folder / "config.json", scaling, ("factor",))
        return float(scaling["factor"])
    if kind == "llama3":
        _require(folder / "config.json", scaling, ROPE_FIELDS)
        return RopeScaling(*(scaling[name] for name in ROPE_FIELDS))
    raise UserError(
        f"{folder}: rope scaling {kind!r} is not supported; supported are default, linear, llama3"
    )


def _from_meta(folder: Path) -> ModelConfig:
    params = _read_json(folder / "params.json")
    _require(folder / "params.json", params, META_FIELDS)
    if "hidden_dim" not in params:
        _require(folder / "params.json", params, ("multiple_of",))
    heads = params["n_heads"]
    rope_theta = float(params.get("rope_theta", 10000.0))
    scaled = params.get("use_scaled_rope", False)
    stretch, high = params.get("rope_scaling_factor", 8.0), params.get("high_freq_factor", 4.0)
    # A params.json doesn't tell: Llama 3.1 and on, Llama 3, LLaMA 2.
    max_positions = 131072 if scaled else 8192 if rope_theta > 10000 else 4096
    vocab_size = params.get("vocab_size", -1)
    return ModelConfig(
        family="llama",
        hidden_size=params["dim"],
        layers=params["n_layers"],
        query_heads=heads,
        kv_heads=params.get("n_kv_heads") or heads,
        head_dim=params["dim"] // heads,
        feed_forward_size=params.get("hidden_dim") or _meta_feed_forward_size(params),
        vocab_size=vocab_size if vocab_size > 0 else 32000,  # LLaMA 1 and 2 leave it open
        norm_epsilon=params["norm_eps"],
        rope_theta=rope_theta,
        rope_scaling=RopeScaling(stretch, 1.0, high, 8192) if scaled else None,
        max_positions=params.get("max_seq_len", max_positions),
        eos_token_ids=(),
        torch_dtype="bfloat16",
    )


def _meta_feed_forward_size(params: dict[str, Any]) -> int:
    """The feed-forward width that Meta's code derives from a params.json."""
    size = int(META_FEED_FORWARD * params["dim"])
    size = int(params.get("ffn_dim_multiplier", 1.0) * size)
    multiple = params["multiple_of"]
    return multiple * -(-size // multiple)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _require(path: Path, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raises UserError naming the fields that a config lacks."""
    missing = [name for name in names if fields.get(name) is None]
    if missing:
        raise UserError(f"{path} does not tell {', '.join(missing)}")


def _as_tuple(ids: int | list[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
