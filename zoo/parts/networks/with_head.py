"""A network of several inputs that ends in a layer, or in a distribution."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.parts.networks.stages import StageArgument, build_stage
from zoo.parts.recorded import Recorded


class WithHead(Recorded, nn.Module):
    """head(f(v_1, ..., v_n)): a stage f, whose features a head turns into a vector or a distribution.

    With a conditional as its head it is p(u | v_1, ..., v_n): a decoder of (z, y), say, or a reverse model r(a | x, z).

    Args:
        sizes: lengths of the inputs.
        out_features: length of the vector, or of a draw; also in the attribute `size`.
        head: constructor `(in_features, out_features) -> Module`: `nn.Linear`, or a conditional such as `Bernoulli`.
        hidden: widths of the stage, at least one, or the constructor of a stage.
        activation: constructor of the nonlinearity of a stage given by widths.

    Raises:
        TypeError: `head` is no constructor; `hidden` neither widths nor a constructor.
        ValueError: a width below 1, or no width; a stage that does not take these inputs.

    Example:
        >>> import torch
        >>> from zoo.parts.conditionals import Normal
        >>> from zoo.parts.networks import WithHead
        >>> WithHead((784, 20), 10, Normal)(torch.zeros(5, 784), torch.zeros(3, 5, 20)).shape()
        torch.Size([3, 5, 10])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        out_features: int,
        head: Callable[[int, int], nn.Module],
        hidden: StageArgument = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        # a module is callable too, and would be called on the sizes as if they were its input
        if not callable(head) or isinstance(head, nn.Module):
            raise TypeError(f"head: expected a constructor such as conditionals.Bernoulli, got {head!r}")
        self.size = out_features
        self.stage = build_stage(hidden, sizes, activation, "hidden")
        self.head = head(self.stage.size, out_features)

    def forward(self, *inputs: Tensor) -> Any:
        return self.head(self.stage(*inputs))
