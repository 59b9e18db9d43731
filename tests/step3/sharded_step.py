"""Two processes with FSDP2-sharded weights take the gradient of one step; rank 0 compares it.

    python sharded_step.py MODEL_DIR lora|full

Prints the relative difference from the gradient of one process that holds all weights.
"""

import os
import sys

import torch
import torch.distributed as dist
from engraved_model import add_adapter, load_base_model
from engraving_data import IGNORED, Example, packed_batch
from exact_trainer import summed_loss
from segment_attention import NAME
from torch.distributed.fsdp import fully_shard


def main() -> None:
    model_dir, kind = sys.argv[1:]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    child = os.fork()
    rank = 1 if child == 0 else 0
    dist.init_process_group("gloo", rank=rank, world_size=2)
    batches = [packed_batch(examples(seed)) for seed in (1, 2)]
    model = build(model_dir, kind)
    sharded = build(model_dir, kind)
    for layer in sharded.get_submodule(
        "base_model.model.model" if kind == "lora" else "model"
    ).layers:
        fully_shard(layer)
    fully_shard(sharded)

    loss, _ = summed_loss(sharded, batches[rank])
    (loss * 2).backward()  # gradients are averaged over the processes
    found = gradient(weight.grad.full_tensor() for weight in trained(sharded))
    if rank == 0:
        sum(summed_loss(model, batch)[0] for batch in batches).backward()
        expected = gradient(weight.grad for weight in trained(model))
        print(((found - expected).norm() / expected.norm()).item(), flush=True)
    dist.barrier()
    os._exit(0 if rank else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def examples(seed: int) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in (7, 30, 12):
        ids = torch.randint(5, 400, (length,), generator=generator).tolist()
        found.append(Example(ids, [IGNORED] * 3 + ids[3:]))
    return found


def build(model_dir: str, kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = load_base_model(model_dir, attention=NAME)
    if kind == "lora":
        model = add_adapter(model, rank=4, alpha=8, dropout=0, bits=16, checkpointing=False)
    return model


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def gradient(parts: object) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


if __name__ == "__main__":
    main()
