"""Priors over latent vectors: N(0, I), and a mixture of Normals."""

import torch
from torch import Tensor, nn

from zoo.parts.distributions import MixtureOfNormalsDensity, UnitNormal


class StandardNormal(nn.Module):
    """p(z) = N(0, I), z of length latent_dim."""

    like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        # a prior without parameters learns dtype and device from a buffer, which `.to()` moves; it is no part of the
        # state dict, since it holds nothing
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self) -> UnitNormal:
        return UnitNormal(self.latent_dim, self.like)


class MixturePrior(nn.Module):
    """p(z) = sum_k pi_k N(z; mu_k, diag(s_k)^2), every pi_k, mu_k and s_k learned.

    Args:
        latent_dim: size of z.
        components: number of components.
    """

    def __init__(self, latent_dim: int, *, components: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        # drawn, not zero: components that start alike have the same gradient and stay alike
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> MixtureOfNormalsDensity:
        return MixtureOfNormalsDensity(self.logits, self.loc, log_scale=self.log_scale)
