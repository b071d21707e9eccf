"""A prior that is learned as a mixture of Normals."""

import torch
from torch import nn

from zoo.parts.distributions import MixtureOfNormalsDensity
from zoo.parts.recorded import Recorded


class MixturePrior(Recorded, nn.Module):
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
