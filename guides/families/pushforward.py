"""The distribution of a flow: it remembers how its latest sample came about."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from guides.families.family import Family
from zoo.parts.distributions import UnitNormal
from zoo.parts.distributions.vector import VectorDistribution, version_of


class NoInverseError(ValueError, NotImplementedError):
    """A value was to be scored that the distribution has not just drawn, and its map has no inverse."""


class Pushforward(VectorDistribution):
    """q(z): z = loc + exp(s) * f_n(...f_1(x)), x ~ N(0, I); log q(z) = log N(x) - sum_k log|det f_k'| - sum s.

    It keeps the way x, f_1(x), ..., z of its latest sample. (torch's `TransformedDistribution` goes through
    `transform.inv` instead, a reference cycle: the graph of a step then lives until Python's collector runs.)

    Args:
        affine: `(..., 2 * features)`, loc and s.
        transforms: f_1, ..., f_n, with parameters of the same leading axes; not to be shared with another distribution.
        family: for the message when there is no inverse.
    """

    has_rsample = True
    support = constraints.real_vector

    def __init__(self, affine: Tensor, transforms: Sequence[Any], family: type[Family]) -> None:
        super().__init__(affine.shape[:-1], affine.shape[-1] // 2)
        self.affine, self.transforms, self.family = affine, transforms, family
        self._way: list[Tensor] = []
        self._version = 0  # of the latest sample

    @property
    def _name(self) -> str:
        return self.family.__name__

    def _expand(self, batch_shape: torch.Size) -> "Pushforward":
        affine = self.affine.expand(batch_shape + self.affine.shape[-1:])
        return Pushforward(affine, self.transforms, self.family)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        self._way = self.way(UnitNormal(self.event_shape[0], self.affine, self.batch_shape).rsample(sample_shape))
        self._version = version_of(self._way[-1])
        return self._way[-1]

    def way(self, x: Tensor) -> list[Tensor]:
        """x, f_1(x), ..., z: the forward map, every step of it."""
        loc, log_scale = self.affine.chunk(2, -1)
        way = [x]
        for transform in self.transforms:
            way.append(transform(way[-1]))
        return [*way, torch.addcmul(loc, log_scale.exp(), way[-1])]

    def way_back(self, z: Tensor) -> list[Tensor]:
        """The same list, found from its end: slow, and a `NoInverseError` where there is none."""
        if not self.family.scores_foreign_values:
            raise NoInverseError(
                f"{self.family.__name__} has no inverse: it scores its own latest sample and no other value. "
                "Where other values are scored (doubly reparameterised gradients, grids, contours) take IAF or Spline"
            )
        loc, log_scale = self.affine.chunk(2, -1)
        way = [(z - loc) * (-log_scale).exp(), z]
        for transform in reversed(self.transforms):
            way.insert(0, transform._inv_call(way[0]))  # what `transform.inv` calls, without its reference cycle
        return way

    def log_prob(self, value: Tensor) -> Tensor:
        own = bool(self._way) and value is self._way[-1] and self._version == version_of(value)
        way = self._way if own else self.way_back(self._vectors(value).to(self.affine.dtype))
        log_scale = self.affine.chunk(2, -1)[1]
        log_prob = UnitNormal(self.event_shape[0], self.affine).log_prob(way[0]) - log_scale.sum(-1)
        for transform, x, y in zip(self.transforms, way, way[1:], strict=False):
            log_prob = log_prob - transform.log_abs_det_jacobian(x, y)
        return log_prob
