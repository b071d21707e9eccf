"""Likelihoods of data with a few ordered levels, such as the 256 grey values of a pixel."""

from collections.abc import Callable

import torch
from pyro.distributions import Categorical as PyroCategorical
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from zoo.parts.distributions import IndependentDiscretizedLogistic
from zoo.parts.recorded import Recorded


class Categorical(Recorded, nn.Module):
    """p(x | h) = prod_i Categorical(x_i; softmax(W_i h + b_i)), x in {0, ..., levels - 1}^data_dim.

    Every level has logits of its own, so that nothing is assumed about the order of the levels.

    Args:
        in_features: size of h.
        data_dim: size of x.
        levels: number of levels, at least 2.
    """

    def __init__(self, in_features: int, data_dim: int, *, levels: int = 256) -> None:
        super().__init__()
        self.levels = _at_least_two("Categorical", levels)
        self.support = _support(levels)
        self.logits = nn.Linear(in_features, data_dim * levels)

    def forward(self, h: Tensor) -> TorchDistribution:
        return PyroCategorical(logits=self.logits(h).unflatten(-1, (-1, self.levels))).to_event(1)


class DiscretizedLogistic(Recorded, nn.Module):
    """p(x | h) = prod_i integral of a logistic density over the bin of x_i, x in {0, ..., levels - 1}^data_dim.

    The location is linear in h; the log scale is learned, one for each coordinate. Levels next to each other have
    probabilities close to each other.

    References: Kingma et al. 2016 (IAF), appendix; Salimans et al. 2017.

    Args:
        in_features: size of h.
        data_dim: size of x.
        levels: number of levels, at least 2.
        layer: constructor `(in_features, data_dim) -> Module` of the linear map: `nn.Linear`, for feature maps
            `zoo.parts.networks.ToPicture`.
    """

    def __init__(
        self,
        in_features: int,
        data_dim: int,
        *,
        levels: int = 256,
        layer: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        self.levels = _at_least_two("DiscretizedLogistic", levels)
        self.support = _support(levels)
        self.loc = layer(in_features, data_dim)
        self.log_scale = nn.Parameter(torch.full((data_dim,), levels / 16.0).log())

    def forward(self, h: Tensor) -> IndependentDiscretizedLogistic:
        # the linear map starts near 0: every coordinate starts in the middle of its levels, and a step of the
        # optimiser moves the location by a share of all levels, however many there are
        loc = (self.loc(h) + 0.5) * (self.levels - 1)
        return IndependentDiscretizedLogistic(loc, self.log_scale, self.levels)


def _support(levels: int) -> constraints.Constraint:
    """The support of x, known before a network runs."""
    return constraints.independent(constraints.integer_interval(0, levels - 1), 1)


def _at_least_two(name: str, levels: int) -> int:
    if levels < 2:
        raise ValueError(f"{name}: expected at least 2 levels, got {levels}")
    return levels
