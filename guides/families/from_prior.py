"""Gaussian families that start from the prior: around the prior's mean, and times the prior."""

from typing import Any

import torch
from torch import Tensor

from guides.families.family import Family
from zoo.parts.distributions import DiagonalNormal


class Residual(Family):
    """q(z) = prod_i N(z_i; mu_i + m_i, exp(s_i)^2), mu the prior's mean, (m, s) linear in the context.

    The network learns by how much the data move z from the place where the prior expects z. Zero parameters give the
    prior's mean and variances of one.

    References: Fraccaro et al. 2016 (SRNN's Res_q: the mean is residual, the variance is not).
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        change, log_scale = parameters.chunk(2, -1)
        return DiagonalNormal(prior.mean + change, log_scale=log_scale)


class PrecisionWeighted(Family):
    """q(z) proportional to prod_i N(z_i; mu_i, sigma_i^2) N(z_i; m_i, exp(s_i)^2), (m, s) linear in the context.

    The prior's means mu and standard deviations sigma enter as a Gaussian, and the network's (m, s) as a likelihood of
    z. The precisions of the two add up and weigh the two means, so that q is never wider than the prior.

    References: Sonderby et al. 2016, Ladder Variational Autoencoders.
    """

    uses_prior = True

    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context, 2 * features, locations=slice(features))

    def density(self, parameters: Tensor, prior: Any) -> DiagonalNormal:
        loc, log_scale = parameters.chunk(2, -1)
        # log precisions: their difference gives the weight, and nothing overflows however sure one of the two is
        own = -2 * log_scale
        # a variance overflows before its logarithm does, and takes three operations more
        given = -2 * prior.log_scale if isinstance(prior, DiagonalNormal) else -prior.variance.log()
        mean = torch.lerp(*torch.broadcast_tensors(prior.mean, loc, torch.sigmoid(own - given)))
        return DiagonalNormal(mean, log_scale=-0.5 * torch.logaddexp(own, given))
