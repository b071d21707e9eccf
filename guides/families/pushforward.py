"""The distribution of a flow, which keeps the way that led to its latest sample."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from guides.families.family import Family
from zoo.parts.distributions import UnitNormal
from zoo.parts.distributions.vector import VectorDistribution, version_of


class NoInverseError(ValueError, NotImplementedError):
    """A flow without an inverse was asked to score a value other than its own latest sample."""


class Pushforward(VectorDistribution):
    """q(z): z = loc + exp(s) * f_n(...f_1(x)), x ~ N(0, I); log q(z) = log N(x) - sum_k log|det f_k'| - sum s.

    The latest sample is scored by the values x, f_1(x), ..., z that led to it; any other value is first mapped back.

    Args:
        affine: loc and s, `(..., 2 * features)`.
        transforms: f_1, ..., f_n, with parameters of the same leading axes. A transform remembers its latest value, so
            no other distribution may share it.
        family: the family that made the density: its name, and whether its maps have an inverse.
    """

    # torch's TransformedDistribution was the candidate. It goes through `transform.inv`, a reference cycle: the graph
    # of a training step then lives until Python's collector runs.

    has_rsample = True
    support = constraints.real_vector

    def __init__(self, affine: Tensor, transforms: Sequence[Any], family: type[Family]) -> None:
        super().__init__(affine.shape[:-1], affine.shape[-1] // 2)
        self.affine, self.transforms, self.family = affine, transforms, family
        # the values that led to the latest sample, and torch's count of writes to the sample at the time
        self._way: list[Tensor] = []
        self._version = 0

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
        """The values x, f_1(x), ..., z, by the maps themselves."""
        loc, log_scale = self.affine.chunk(2, -1)
        way = [x]
        for transform in self.transforms:
            way.append(transform(way[-1]))
        return [*way, torch.addcmul(loc, log_scale.exp(), way[-1])]

    def way_back(self, z: Tensor) -> list[Tensor]:
        """The values x, f_1(x), ..., z, by the inverse maps from z: slow.

        Raises:
            NoInverseError: the family's maps have no inverse.
        """
        if not self.family.scores_foreign_values:
            raise NoInverseError(
                f"{self._name} has no inverse: it scores its own latest sample and no other value. "
                "Where other values are scored (doubly reparameterised gradients, grids, contours) take IAF or Spline"
            )
        loc, log_scale = self.affine.chunk(2, -1)
        way = [(z - loc) * (-log_scale).exp(), z]
        for transform in reversed(self.transforms):
            # `transform.inv` calls the same method, and ties a reference cycle
            way.insert(0, transform._inv_call(way[0]))
        return way

    def log_prob(self, value: Tensor) -> Tensor:
        own = bool(self._way) and value is self._way[-1] and self._version == version_of(value)
        way = self._way if own else self.way_back(self._vectors(value).to(self.affine.dtype))
        log_scale = self.affine.chunk(2, -1)[1]
        log_prob = UnitNormal(self.event_shape[0], self.affine).log_prob(way[0]) - log_scale.sum(-1)
        # the way has one step more than there are transforms: the last is the affine map, counted above
        for transform, x, y in zip(self.transforms, way, way[1:], strict=False):
            log_prob = log_prob - transform.log_abs_det_jacobian(x, y)
        return log_prob
