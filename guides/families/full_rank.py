"""The Gaussian family with a full covariance."""

from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from guides.families.family import Family


class FullRank(Family):
    """q(z) = N(z; m, L L^T), L lower triangular, exp(s) on its diagonal, r below; (m, s, r) linear in the context.

    Scoring a sample solves with L: features^2 operations.

    References: Kucukelbir et al. 2017 (ADVI).
    """

    def __init__(self, features: int, context: int) -> None:
        num_parameters = features + features * (features + 1) // 2
        super().__init__(features, context, num_parameters, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> MultivariateNormal:
        d = self.features
        loc, log_scale, below = parameters.split([d, d, self.num_parameters - 2 * d], -1)
        row, column = torch.tril_indices(d, d, offset=-1, device=parameters.device)
        scale_tril = log_scale.exp().diag_embed()
        scale_tril[..., row, column] = below
        # torch's own, since torch knows its KL to a Normal; unchecked, since L is lower triangular as it is built
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
