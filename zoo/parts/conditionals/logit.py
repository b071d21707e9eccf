"""Densities of numbers between 0 and 1, such as dequantised pixels, by way of their logits."""

from typing import Any

from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform, SigmoidTransform

from zoo.parts.checks import check_module
from zoo.parts.conditionals.flow_prior import FlowDensity
from zoo.parts.recorded import Recorded


class OpenUnit(constraints.Constraint):
    """Numbers between 0 and 1, neither of which is among them: pixels that were not dequantised hold both."""

    def __repr__(self) -> str:
        return "OpenUnit(0, 1)"

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


class LogitDensity(FlowDensity):
    """The density of a `Logit`."""

    @property
    def support(self) -> Any:
        return constraints.independent(OpenUnit(), 1)


class Logit(Recorded, nn.Module):
    """p(x) = p_y(y) prod_i |dy_i / dx_i|, y_i = logit(margin + (1 - 2 margin) x_i): a density of x in (0, 1)^data_dim.

    The Jacobian is part of the density, so nats are those of x in [0, 1]: `zoo.infer.bits_per_dim(nats, data_dim,
    levels=L)` makes bits per level of them, log p of levels is at least log p(x) - data_dim log L nats. A flow of all
    real numbers would have to learn that pixels have bounds.

    References: Dinh, Sohl-Dickstein and Bengio 2017, section 4.1.

    Args:
        conditional: module whose call gives p_y, such as `FlowPrior(data_dim)`.
        margin: keeps the ends of (0, 1) finite, at least 0 and below 1/2. The share of p(x) that lies beyond them, up
            to margin / (1 - 2 margin), is lost to the data, so the density stays a lower bound.

    Raises:
        TypeError: `conditional` is no module.
        ValueError: margin out of range. Data on or beyond 0 and 1, as those that were not dequantised, are outside the
            density's support and are refused by all that looks at a pair's values.

    Example:
        >>> import torch
        >>> from zoo.parts.conditionals import FlowPrior, Logit
        >>> Logit(FlowPrior(4))().log_prob(torch.rand(3, 4)).shape
        torch.Size([3])
    """

    def __init__(self, conditional: nn.Module, *, margin: float = 0.05) -> None:
        super().__init__()
        check_module("conditional", conditional, "FlowPrior(data_dim)")
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin: expected 0 <= margin < 0.5, got {margin}")
        self.conditional, self.margin = conditional, margin

    def forward(self) -> LogitDensity:
        inner = 1 - 2 * self.margin
        return LogitDensity(self.conditional(), [SigmoidTransform(), AffineTransform(-self.margin / inner, 1 / inner)])
