"""Gaussian families: diagonal, around the prior's mean, times the prior, and with full covariance."""

from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from guides.families.family import Family
from zoo.parts.distributions import DiagonalNormal


class Diagonal(Family):
    """q(z) = prod_i N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    References: Kingma and Welling 2014; the exponential is the parameterisation of Burda et al.'s code (2015).
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(loc, log_scale=log_scale)


class Residual(Family):
    """q(z) = prod_i N(z_i; mu_i + m_i, exp(s_i)^2), mu the prior's mean, (m, s) linear in the context.

    The network says how far the data move z from where the prior expects it, which is easier to learn.

    References: Fraccaro et al. 2016 (SRNN's Res_q: the mean, not the variance, is residual).
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        change, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(prior.mean + change, log_scale=log_scale)


class PrecisionWeighted(Family):
    """q(z) proportional to prod_i N(z_i; mu_i, sigma_i^2) N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    The prior, by its means mu and standard deviations sigma, times a Gaussian likelihood of z that the network makes of
    the data: precisions add up, the mean is weighted by them, and q is never wider than the prior.

    References: Sonderby et al. 2016, Ladder Variational Autoencoders.
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        own, given = -2 * log_scale, -prior.variance.log()  # log precisions
        mean = torch.lerp(*torch.broadcast_tensors(prior.mean, loc, torch.sigmoid(own - given)))
        return DiagonalNormal(mean, log_scale=-0.5 * torch.logaddexp(own, given))


class FullRank(Family):
    """q(z) = N(z; m, L L^T), L lower triangular with exp(.) on its diagonal.

    A torch `MultivariateNormal`, so that its KL to a Normal prior is analytic; `log_prob` solves with L (D^2 a sample).

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
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
