"""A model of a chosen size with random weights, as a Hugging Face folder that all peers can load.

Matrices are scaled by their inputs, so that states keep their size from layer to layer; the head
is scaled so that logits spread like a trained model's and a nucleus holds tens of tokens, not
most of the vocabulary. Each token is a word, so that a text has exactly as many tokens as words.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

LOGIT_SPREAD = 4.0  # standard deviation
EMBEDDING_SPREAD = 0.02
MAX_POSITIONS = 16384


@dataclass(frozen=True)
class ModelSize:
    """The shape of a LLaMA; the fields are named as in its config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Numbers in one head's query."""
        return self.hidden_size // self.num_attention_heads

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers."""
        kv_width = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * 2 * (self.hidden_size + kv_width)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + feed_forward)

    @property
    def head_weights(self) -> int:
        """Numbers in the matrix that gives the logits."""
        return self.hidden_size * self.vocab_size


SIZES = {
    "15m": ModelSize(288, 6, 6, 6, 768, 16000),
    "120m": ModelSize(768, 12, 12, 4, 2048, 32000),
    "1b": ModelSize(2048, 16, 32, 8, 8192, 128256, 500000.0),  # as Llama 3.2 1B, head untied
    "8b": ModelSize(4096, 32, 32, 8, 14336, 128256, 500000.0),  # as Llama 3 8B
}


def text_of(token_ids: list[int]) -> str:
    """The text whose tokens these are."""
    return " ".join(f"w{token}" for token in token_ids)


def write_model(
    folder: Path, size: ModelSize, dtype: torch.dtype, device: torch.device, seed: int
) -> None:
    """Writes config, tokenizer and weights, one file a layer, so that no more is ever held."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
        # A random model has no end of its own: each response's length is set from outside.
        "bos_token_id": None,
        "eos_token_id": None,
        **asdict(size),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    _write_tokenizer(folder / "tokenizer.json", size.vocab_size)
    generator = torch.Generator(device).manual_seed(seed)
    weight_map = {}
    for part, shapes in _tensor_shapes(size).items():
        tensors = {
            name: _random_tensor(name, shape, dtype, generator).cpu()
            for name, shape in shapes.items()
        }
        file = f"model-{part}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _tensor_shapes(size: ModelSize) -> dict[str, dict[str, tuple[int, ...]]]:
    """Tensors by file: {file part: {name: shape}}."""
    width, inner = size.hidden_size, size.intermediate_size
    kv_width = size.num_key_value_heads * size.head_dim
    layer = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (kv_width, width),
        "self_attn.v_proj": (kv_width, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    ends = {
        "model.embed_tokens.weight": (size.vocab_size, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (size.vocab_size, width),
    }
    layers = {
        f"layer{i}": {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        for i in range(size.num_hidden_layers)
    }
    return {"ends": ends, **layers}


def _random_tensor(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    if len(shape) == 1:  # a norm
        return torch.ones(shape, dtype=dtype)
    spread = shape[1] ** -0.5
    if name == "lm_head.weight":
        spread *= LOGIT_SPREAD
    elif name == "model.embed_tokens.weight":
        spread = EMBEDDING_SPREAD
    tensor = torch.empty(shape, dtype=dtype, device=generator.device)
    return tensor.normal_(std=spread, generator=generator)


def _write_tokenizer(file: Path, vocab_size: int) -> None:
    vocabulary = {f"w{token}": token for token in range(vocab_size)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    }
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
