"""A first layer of several inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.recorded import Recorded


class MultiInput(Recorded, nn.Module):
    """sum_i W_i v_i + b: a linear layer of several vectors, each multiplied by its own matrix before axes broadcast.

    An input that does not depend on the particles, or on the classes that are summed out, is multiplied once for all
    of them; nothing is copied to be joined. The layer starts as one `nn.Linear` over all inputs side by side would.

    Args:
        sizes: lengths of the inputs, at least one.
        out_features: length of the output, also in the attribute `size`.

    Raises:
        ValueError: no input, or a size below 1; at each call another number of inputs.

    Example:
        >>> import torch
        >>> from zoo.parts.networks import MultiInput
        >>> MultiInput((784, 10), 400)(torch.zeros(5, 784), torch.eye(10).unsqueeze(1)).shape
        torch.Size([10, 5, 400])
    """

    def __init__(self, sizes: Sequence[int], out_features: int) -> None:
        super().__init__()
        if not len(sizes):
            raise ValueError(f"sizes: expected the length of each input, at least one, got {sizes!r}")
        check_counts(out_features=out_features, **{f"sizes[{i}]": n for i, n in enumerate(sizes)})
        self.size = out_features
        # one bias is enough for the sum
        self.layers = nn.ModuleList(nn.Linear(n, out_features, bias=i == 0) for i, n in enumerate(sizes))
        with torch.no_grad():
            for layer, n in zip(self.layers, sizes, strict=True):
                for parameter in layer.parameters():
                    parameter.mul_((n / sum(sizes)) ** 0.5)

    def forward(self, *inputs: Tensor) -> Tensor:
        # zip would stop at the shorter one, and leave an input out without a word
        if len(inputs) != len(self.layers):
            raise ValueError(f"MultiInput: built for {len(self.layers)} inputs, got {len(inputs)}")
        # no slice of the layers: a ModuleList makes a new module of it at each call
        first, *others = (layer(value) for layer, value in zip(self.layers, inputs, strict=True))
        return sum(others, first)
