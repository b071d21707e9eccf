"""The Gaussian family with a diagonal covariance."""

from typing import Any

from torch import Tensor

from guides.families.family import Family
from zoo.parts.distributions import DiagonalNormal


class Diagonal(Family):
    """q(z) = prod_i N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    References: Kingma and Welling 2014; Burda, Grosse and Salakhutdinov 2016, whose code has the exponential.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(loc, log_scale=log_scale)
