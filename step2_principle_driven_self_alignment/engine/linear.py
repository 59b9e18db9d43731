"""fairscale's tensor-parallel layers; on CPU, bfloat16 weights can lie as oneDNN likes them."""

import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel.layers import ColumnParallelLinear, RowParallelLinear

# What gather_from_model_parallel_region and its kin call, without gradients, which nobody wants
# here: their bookkeeping takes 3 % of a small model's step.
from fairscale.nn.model_parallel.mappings import _gather, _reduce
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
        """inputs [tokens, in] times the weight: [tokens, out]."""
        if self.packed is None:
            return F.linear(inputs, self.weight, bias)
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, bias, "none", [], "")


class ColumnLinear(_Packable, ColumnParallelLinear):
    """Its outputs are shared out over the ranks."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, in] -> [tokens, this rank's share of out], or all of out if gathered."""
        outputs = self.multiply(inputs, self.bias)
        return _gather(outputs) if self.gather_output else outputs


class RowLinear(_Packable, RowParallelLinear):
    """Its inputs are shared out over the ranks, and its outputs summed."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, this rank's share of in] -> [tokens, out]."""
        outputs = _reduce(None, self.multiply(inputs, None))
        return outputs if self.bias is None else outputs + self.bias


def pack_weights(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Packs all linear layers, where that is of use: for bfloat16 on CPUs that multiply it."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        for module in model.modules():
            if isinstance(module, _Packable):
                module.pack()
