"""The distribution of a vector over the reals that is mapped onto a support."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.utils import _sum_rightmost

from zoo.parts.distributions.vector import VectorDistribution, version_of


class Mapped(VectorDistribution):
    """The distribution of z = f(u).

    The latest sample is scored at the u that it was made of, any other value is mapped back.

    Args:
        base: q(u), over vectors.
        transform: f, of vectors.
        features: entries of z.
        support: the image of f.
    """

    # torch's TransformedDistribution was the candidate. It scores by the inverse, which a flow need not have and which
    # loses the digits of a sigmoid near its ends, or else by a cache that a copy of the value does not find.

    has_rsample = True

    def __init__(self, base: TorchDistribution, transform: Any, features: int, support: Any) -> None:
        super().__init__(base.batch_shape, features)
        self.base, self.transform, self._support = base, transform, support
        self._latest: tuple[Tensor, Tensor, int] | None = None  # u, z, and torch's count of writes to z

    @property
    def support(self) -> Any:
        return self._support

    def _expand(self, batch_shape: torch.Size) -> "Mapped":
        return Mapped(self.base.expand(batch_shape), self.transform, self.event_shape[0], self._support)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        u = self.base.rsample(sample_shape)
        z = self.transform(u)
        self._latest = u, z, version_of(z)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        own = self._latest is not None and value is self._latest[1] and self._latest[2] == version_of(value)
        u = self._latest[0] if own and self._latest else self.transform.inv(self._vectors(value))
        z = value if own else self.transform(u)
        change = self.transform.log_abs_det_jacobian(u, z)
        return self.base.log_prob(u) - _sum_rightmost(change, change.dim() - u.dim() + 1)
