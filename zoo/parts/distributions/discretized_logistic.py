"""Levels 0, 1, ..., such as those of pixels, under a logistic density that is integrated over each level's bin."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from zoo.parts.distributions.vector import VectorDistribution


class IndependentDiscretizedLogistic(VectorDistribution):
    """p(x) = prod_i [F((x_i + 1/2 - loc_i) / scale_i) - F((x_i - 1/2 - loc_i) / scale_i)], F the logistic function.

    The first and the last bin take the tails, so that the probabilities of all levels sum to one.

    References: Kingma et al. 2016 (IAF), appendix; Salimans et al. 2017.

    Args:
        loc: location in units of one level, `(..., d)`.
        log_scale: logarithm of the scale, in the same units; broadcast with `loc`.
        levels: number of levels; x holds 0, 1, ..., levels - 1.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int = 256) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 1)

    def _expand(self, batch_shape: torch.Size) -> "IndependentDiscretizedLogistic":
        shape = batch_shape + self._event_shape
        return IndependentDiscretizedLogistic(self.loc.expand(shape), self.log_scale.expand(shape), self.levels)

    @property
    def mean(self) -> Tensor:
        return self._sum_over_levels(lambda level: level)

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return self._sum_over_levels(lambda level: (level - mean) ** 2)

    def _sum_over_levels(self, term: Callable[[Any], Any]) -> Tensor:
        """sum_l term(l) p(x_i = l)."""
        # one level at a time: 256 copies of a batch of images may not fit into memory
        total = torch.zeros_like(self.loc)
        for level in range(self.levels):
            total = total + term(level) * self._log_prob_of_each(torch.full_like(self.loc, level)).exp()
        return total

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            loc = self.loc.expand(torch.Size(sample_shape) + self.loc.shape)
            # the logit of 0, which torch may draw, is infinite
            uniform = torch.rand_like(loc).clamp(1e-6, 1 - 1e-6)
            return (loc + self.log_scale.exp() * torch.logit(uniform)).round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_prob_of_each(self._vectors(value)).sum(-1)

    def log_prob_of_observed(self, value: Tensor, mask: Tensor) -> Tensor:
        """log p of the entries where the mask is True."""
        return torch.where(mask, self._log_prob_of_each(self._vectors(value)), 0.0).sum(-1)

    def _log_prob_of_each(self, value: Tensor) -> Tensor:
        """log p(x_i), `(..., d)`."""
        rate = torch.exp(-self.log_scale)
        upper, lower = (value + 0.5 - self.loc) * rate, (value - 0.5 - self.loc) * rate
        # the difference of two F near 1 has no digits left; log(F(u) - F(l)) = log F(u) + log F(-l) + log(1 - e^(l-u))
        # holds exactly and cancels nothing
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-rate))
        first, last = value < 0.5, value > self.levels - 1.5
        return torch.where(first, F.logsigmoid(upper), torch.where(last, F.logsigmoid(-lower), inner))
