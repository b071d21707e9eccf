"""The support of a transformed distribution, where torch's own `support` is too large."""

from typing import Any

from pyro.distributions import constraints
from torch import Tensor


class Image(constraints.Constraint):
    """The image of a base distribution's support under the transforms of a `TransformedDistribution`.

    Args:
        fn: the transformed distribution.
        base: the support of `fn.base_dist`.
    """

    def __init__(self, fn: Any, base: Any) -> None:
        self.event_dim, self.base, self.transforms = fn.event_dim, base, fn.transforms

    def __repr__(self) -> str:
        return f"the image of {self.base} under {self.transforms}"

    def check(self, value: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            value = transform.inv(value)
        inside = self.base.check(value)
        # the transforms may make an event of entries that the base checks one by one
        extra = inside.dim() - (value.dim() - self.event_dim)
        return inside.flatten(-extra).all(-1) if extra > 0 else inside
