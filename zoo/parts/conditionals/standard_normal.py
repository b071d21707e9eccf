"""The prior N(0, I)."""

import torch
from torch import Tensor, nn

from zoo.parts.distributions import UnitNormal
from zoo.parts.recorded import Recorded


class StandardNormal(Recorded, nn.Module):
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
