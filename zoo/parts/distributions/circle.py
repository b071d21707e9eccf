"""The circle as a support: angles, of which pi and -pi are one."""

import math
from typing import Any

import torch
from pyro.distributions import VonMises, constraints
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions.transforms import Transform


class Circle(constraints.Constraint):
    """Angles in [-pi, pi]."""

    def __repr__(self) -> str:
        return "circle"

    def check(self, value: Tensor) -> Tensor:
        # the float32 nearest to pi lies above it
        return value.abs() <= math.pi + 1e-6


circle = Circle()


class HalfTangent(Transform):
    """u -> m + 2 arctan(u), an angle: the real line onto the circle but for the point opposite to m.

    Args:
        middle: m.
    """

    domain = constraints.real
    codomain = circle
    bijective = True
    sign = 1

    def __init__(self, middle: Tensor | float = 0.0) -> None:
        super().__init__()
        self.middle = middle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HalfTangent) and other.middle is self.middle

    def _call(self, u: Tensor) -> Tensor:
        return _wrapped(self.middle + 2 * u.atan())

    def _inverse(self, angle: Tensor) -> Tensor:
        return (_wrapped(angle - self.middle) / 2).tan()

    def log_abs_det_jacobian(self, u: Tensor, angle: Tensor) -> Tensor:
        # |d angle / du| = 2 / (1 + u^2)
        return math.log(2) - torch.log1p(u.square())


def _wrapped(angle: Tensor) -> Tensor:
    # a turn is a constant: the gradient is that of the angle
    return angle - (2 * math.pi * (angle / (2 * math.pi)).round()).detach()


@biject_to.register(Circle)
@transform_to.register(Circle)
def _from_the_line(support: Circle) -> HalfTangent:
    return HalfTangent()


def latent_support(fn: Any) -> Any:
    """The support of a latent's distribution: torch's, but the circle for von Mises', which torch calls real.

    Over the real line a von Mises density repeats itself without end, and has no finite mass.
    """
    inner = fn
    while type(inner).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        inner = inner.base_dist
    if not isinstance(inner, VonMises):
        return fn.support
    return constraints.independent(circle, fn.event_dim) if fn.event_dim else circle
