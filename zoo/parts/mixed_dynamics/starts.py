"""Starts of the mixed matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.parts.checks import check_least


@dataclass(frozen=True)
class Velocity:
    """The start at constant velocity: z holds a position, which a shows, and the change of the position in a step.

    A^k = [[I, I], [0, I]], C^k = [I, 0] and B^k = 0, each plus scale * N(0, 1). Entries of z beyond the first
    2 * data_dim keep their values.

    Args:
        scale: standard deviation of the noise, without which the components would stay equal.
    """

    scale: float = 0.02

    def __post_init__(self) -> None:
        check_least(0, scale=self.scale)

    def __call__(self, K: int, data_dim: int, latent_dim: int, control_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """(A^k, B^k, C^k), the components along the first axis."""
        transition = torch.eye(latent_dim)
        position = torch.arange(min(data_dim, max(latent_dim - data_dim, 0)))
        transition[position, position + data_dim] = 1.0
        means = transition, torch.zeros(latent_dim, control_dim), torch.eye(data_dim, latent_dim)
        a, b, c = (mean + self.scale * torch.randn(K, *mean.shape) for mean in means)
        return a, b, c


@dataclass(frozen=True)
class RandomWalk:
    """The paper's start: A^k = I, and the entries of B^k and C^k are draws from N(0, scale^2).

    Args:
        scale: standard deviation.
    """

    scale: float = 0.05

    def __post_init__(self) -> None:
        check_least(0, scale=self.scale)

    def __call__(self, K: int, data_dim: int, latent_dim: int, control_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """(A^k, B^k, C^k), the components along the first axis."""
        b, c = self.scale * torch.randn(K, latent_dim, control_dim), self.scale * torch.randn(K, data_dim, latent_dim)
        return torch.eye(latent_dim).repeat(K, 1, 1), b, c
