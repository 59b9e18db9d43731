"""fairscale's tensor-parallel layers; on CPU, bfloat16 weights can lie as oneDNN likes them."""

import torch
from fairscale.nn.model_parallel.layers import ColumnParallelLinear, RowParallelLinear
from fairscale.nn.model_parallel.mappings import (
    gather_from_model_parallel_region,
    reduce_from_model_parallel_region,
)
from torch import nn

PACKED_FOR = 64  # tokens that the layout is chosen for; any other number works


class _Packable(nn.Module):
    """A linear layer whose weight can be replaced by a packed copy."""

    packed: torch.Tensor | None = None

    def pack(self) -> None:
        """Reorders the weight once, which each product would do again otherwise."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), PACKED_FOR)
        self.weight = None

    def multiply(self, inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """inputs [tokens, in] times the packed weight: [tokens, out]."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, bias, "none", [], "")


class ColumnLinear(_Packable, ColumnParallelLinear):
    """Its outputs are shared out over the ranks."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, in] -> [tokens, this rank's share of out], or all of out if gathered."""
        if self.packed is None:
            return super().forward(inputs)
        outputs = self.multiply(inputs, self.bias)
        return gather_from_model_parallel_region(outputs) if self.gather_output else outputs


class RowLinear(_Packable, RowParallelLinear):
    """Its inputs are shared out over the ranks, and its outputs summed."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, this rank's share of in] -> [tokens, out]."""
        if self.packed is None:
            return super().forward(inputs)
        outputs = reduce_from_model_parallel_region(self.multiply(inputs, None))
        return outputs if self.bias is None else outputs + self.bias


def pack_weights(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Packs all linear layers, where that is of use: for bfloat16 on CPUs that multiply it."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        for module in model.modules():
            if isinstance(module, _Packable):
                module.pack()
