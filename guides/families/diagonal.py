"""Gaussian families with a diagonal covariance."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from guides.families.family import Family
from zoo.parts.checks import check_positive
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


class BoundedDiagonal(Family):
    """q(z) = prod_i N(z_i; m_i, bound * sigmoid(s_i)), (m, s) linear in the context: no variance exceeds the bound.

    References: Fraccaro, Kamronn, Paquet and Winther 2017, whose q(a_t | x_t) has the variance of p(a_t | z_t) as its
    bound.

    Args:
        features, context: as in `Family`.
        bound: the largest variance.
    """

    def __init__(self, features: int, context: int, *, bound: float = 0.03) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))
        check_positive(bound=bound)
        self.log_bound = math.log(bound)

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, raised = parameters.chunk(2, -1)
        # the logarithm of a sigmoid, for a variance that underflows would have none
        return DiagonalNormal(loc, log_scale=0.5 * (self.log_bound + F.logsigmoid(raised)))
