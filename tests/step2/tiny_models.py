"""Tiny random models of every supported family, with real tokenizers, as folders on disk."""

import json
import re
from functools import cache
from pathlib import Path

import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

REPOSITORY = Path(__file__).resolve().parents[2]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # so small that short texts feel the scaling
}
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"

# family -> (transformers' config class, its arguments, tokenizer). No size divides by 5, or by all
# of 2 and 3; the odd vocabulary sizes are larger than the tokenizers'.
FAMILIES = {
    "llama2": (
        transformers.LlamaConfig,
        {
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "vocab_size": 506,
            "max_position_embeddings": 2048,
        },
        "sentencepiece",
    ),
    "llama3": (
        transformers.LlamaConfig,
        {
            "hidden_size": 64,
            "intermediate_size": 112,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 4099,
            "max_position_embeddings": 2048,
            "rope_parameters": LLAMA_3_ROPE,
            "tie_word_embeddings": True,
        },
        "byte_level",
    ),
    "mistral": (
        transformers.MistralConfig,
        {
            "hidden_size": 40,
            "intermediate_size": 66,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "vocab_size": 501,
            "max_position_embeddings": 2048,
            "sliding_window": 1024,
        },
        "sentencepiece",
    ),
    "qwen2": (
        transformers.Qwen2Config,
        {
            "hidden_size": 56,
            "intermediate_size": 72,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "vocab_size": 2503,
            "max_position_embeddings": 2048,
            "use_sliding_window": False,
        },
        "byte_level_without_bos",
    ),
    "qwen3": (
        transformers.Qwen3Config,
        {
            "hidden_size": 40,
            "intermediate_size": 16,  # on 5 ranks, the last one has none of it
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 16,
            "vocab_size": 2501,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "byte_level_without_bos",
    ),
    "llama_with_biases": (
        transformers.LlamaConfig,
        {
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 502,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        "sentencepiece",
    ),
}


def make_model(family: str, folder: Path, **changes: object) -> Path:
    """Saves a random model of a family with its tokenizer; `changes` go to its config."""
    config_class, arguments, tokenizer = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    TOKENIZERS[tokenizer](folder)
    torch.manual_seed(len(family))
    common = {"num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = config_class(**{**common, **arguments, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def randomize(model: torch.nn.Module) -> None:
    """Weights large enough to matter; norms and biases too, which start at 1 and 0 by default."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        else:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)


def training_text() -> str:
    """The project's own prompt, and characters that it lacks."""
    prompt = (REPOSITORY / "prompts" / "watson_self_align_prompt.txt").read_text(encoding="utf-8")
    return prompt + "\nBär Größe naïve café\n" * 3


@cache
def sentencepiece_model() -> bytes:
    """A BPE model as LLaMA's: byte fallback, digits apart, a space put in front."""
    from io import BytesIO

    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_text().split("\n")),
        model_writer=written,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def write_sentencepiece(folder: Path) -> None:
    """`tokenizer.model`, with BOS 1 and EOS 2."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())


@cache
def byte_level_tokenizer(vocab_size: int) -> str:
    """A byte-level BPE with Llama 3's way of splitting and its special tokens at the end."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([training_text()], trainer)
    tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer.to_str()


def write_byte_level(folder: Path, begin: bool = True, vocab_size: int = 2300) -> None:
    """`tokenizer.json`, putting a BOS in front as Llama 3's does, or knowing none as Qwen's."""
    tokenizer = tokenizers.Tokenizer.from_str(byte_level_tokenizer(vocab_size))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    if begin:
        bos = (BEGIN, tokenizer.token_to_id(BEGIN))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[bos]
        )
        settings["bos_token"] = BEGIN
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TOKENIZERS = {
    "sentencepiece": write_sentencepiece,
    "byte_level": write_byte_level,
    "byte_level_without_bos": lambda folder: write_byte_level(folder, begin=False),
}

META_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_meta_folder(source: Path, folder: Path, parts: int, embedding_axis: int = 1) -> Path:
    """A LLaMA's folder as Meta published it, cut into `parts`; LLaMA 2 cuts columns, 3 rows."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    pieces = [{"rope.freqs": torch.ones(4)} for _ in range(parts)]
    for name, tensor in model.state_dict().items():
        meta_name = name.removeprefix("model.")
        for theirs, ours in META_NAMES.items():
            meta_name = meta_name.replace(theirs.removeprefix("model."), ours)
        if re.search(r"[qk]_proj", name):
            tensor = interleave(tensor, config.head_dim)
        columns = "o_proj" in name or "down_proj" in name
        axis = embedding_axis if "embed_tokens" in name else int(columns)
        cut = [tensor] * parts if tensor.dim() == 1 else tensor.chunk(parts, axis)
        for piece, share in zip(pieces, cut, strict=True):
            piece[meta_name] = share.clone()
    for index, piece in enumerate(pieces):
        torch.save(piece, folder / f"consolidated.{index:02d}.pth")
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "hidden_dim": config.intermediate_size,
        "multiple_of": 4,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def interleave(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows in Meta's order, which rotates neighbours, from one that rotates a head's halves."""
    halves = heads.reshape(-1, 2, head_dim // 2, heads.shape[1])
    return halves.transpose(1, 2).reshape(heads.shape)


def make_reciting_model(folder: Path, recitals: dict[str, list[str]]) -> Path:
    """A LLaMA that recites: after the piece that is a key, the pieces of its list, one by one.

    Each token decides the next (the layer adds nothing, embeddings are unit vectors, the head maps
    each to its successor), so no piece may occur twice; `END` is the end of sequence. A last piece
    is repeated for ever. Pieces are tokens of their own; those that aren't UTF-8 alone are given as
    their bytes, such as "<f0>".
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_byte_level(folder, begin=False, vocab_size=256)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = {p for chain in recitals.values() for p in chain if not is_byte(p)} | set(recitals)
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in sorted(texts - {END})])
    tokenizer.save(str(folder / "tokenizer.json"))

    def token_id(piece: str) -> int:
        character = chr_of_byte(int(piece[1:3], 16)) if is_byte(piece) else piece
        return tokenizer.token_to_id(character)

    size = tokenizer.get_vocab_size()
    head = torch.zeros(size, size)
    for start, chain in recitals.items():
        ids = [token_id(piece) for piece in (start, *chain)]
        for current, following in zip(ids, [*ids[1:], ids[-1]], strict=True):
            head[following, current] = 1
    config = transformers.LlamaConfig(
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        vocab_size=size,
        eos_token_id=tokenizer.token_to_id(END),
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.model.layers.parameters():
        torch.nn.init.zeros_(parameter)
    model.model.embed_tokens.weight.data = torch.eye(size)
    model.lm_head.weight.data = head
    model.save_pretrained(folder)
    return folder


def is_byte(piece: str) -> bool:
    """Whether a piece stands for a single byte, as in "<f0>"."""
    return re.fullmatch("<[0-9a-f]{2}>", piece) is not None


def chr_of_byte(byte: int) -> str:
    """The character that byte-level tokenizers write for a byte: itself, or one from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [other for other in range(256) if other not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))
