"""Prints how many nodes, or how many GPUs of a node, should hold one copy of a model in step 2.

    python group_size.py MODEL_DIR MEMORY_OF_A_GPU_IN_MIB GPUS_PER_NODE

Prints "NODES" where a copy takes whole nodes, else "1 GPUS": the fewest that hold it, because two
small groups answer more prompts than one of twice the size. Standard library only.
"""

import json
import sys
from pathlib import Path

BYTES_PER_WEIGHT = 2
TOKENS = 2816 + 64 * 768  # the shared prefix, and 64 slots
FILLED = 0.7  # the rest is for padding, NCCL, graphs, and more slots


def read_shape(folder: Path) -> dict[str, int]:
    """A model's sizes, from Hugging Face's config.json or Meta's params.json."""
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width, heads = config["hidden_size"], config["num_attention_heads"]
        return {
            "width": width,
            "layers": config["num_hidden_layers"],
            "heads": heads,
            "kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or width // heads,
            "feed_forward": config["intermediate_size"],
            "vocabulary": config["vocab_size"],
        }
    config = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    width, heads, multiple = config["dim"], config["n_heads"], config.get("multiple_of", 1)
    feed_forward = int(int(8 * width / 3) * (config.get("ffn_dim_multiplier") or 1))
    return {
        "width": width,
        "layers": config["n_layers"],
        "heads": heads,
        "kv_heads": config.get("n_kv_heads") or heads,
        "head_dim": width // heads,
        "feed_forward": -(-feed_forward // multiple) * multiple,
        "vocabulary": max(config.get("vocab_size", 0), 32000),
    }


def needed_bytes(shape: dict[str, int]) -> int:
    """Weights, prefix and slots of one copy, in 16 bits."""
    width, kv_width = shape["width"], shape["kv_heads"] * shape["head_dim"]
    attention = 2 * width * (shape["heads"] * shape["head_dim"] + kv_width)
    layer = attention + 3 * width * shape["feed_forward"]
    weights = shape["layers"] * layer + 2 * shape["vocabulary"] * width
    return BYTES_PER_WEIGHT * (weights + TOKENS * 2 * shape["layers"] * kv_width)


def group_size(needed: int, memory: int, gpus: int) -> str:
    """The fewest GPUs of a node whose number divides a node's, else the fewest whole nodes."""
    for count in range(1, gpus + 1):
        if gpus % count == 0 and needed <= FILLED * memory * count:
            return f"1 {count}"
    return str(-int(-needed // (FILLED * memory * gpus)))


if __name__ == "__main__":
    model_dir, memory_in_mib, gpus_per_node = sys.argv[1:]
    shape = read_shape(Path(model_dir))
    print(group_size(needed_bytes(shape), int(memory_in_mib) * 2**20, int(gpus_per_node)))
