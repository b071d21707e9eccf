"""Bits that are independent given their logits."""

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from zoo.parts.distributions.vector import VectorDistribution


class IndependentBernoulli(VectorDistribution):
    """p(x) = prod_i Bernoulli(x_i; sigmoid(logits_i)), x in {0, 1}^d; values in between are scored by the same formula.

    Args:
        logits: `(..., d)`.
    """

    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits.shape[:-1], logits.shape[-1])
        self.logits = logits

    def _expand(self, batch_shape: torch.Size) -> "IndependentBernoulli":
        return IndependentBernoulli(self.logits.expand(batch_shape + self._event_shape))

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(torch.Size(sample_shape) + self.logits.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return -self._losses(value).sum(-1)

    def log_prob_of_observed(self, value: Tensor, mask: Tensor) -> Tensor:
        """log p of the entries where the mask is True."""
        return -torch.where(mask, self._losses(value), 0.0).sum(-1)

    def _losses(self, value: Tensor) -> Tensor:
        """-log p(x_i), `(..., d)`."""
        logits, target = self.logits, self._vectors(value)
        # torch's loss does not broadcast: one x under many particles, or many x under one
        if target.shape != logits.shape:
            logits, target = torch.broadcast_tensors(logits, target)
        # torch's loss has the precision of its target, so a target of halves would round the logits
        if target.dtype != logits.dtype:
            target = target.to(torch.promote_types(target.dtype, logits.dtype))
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.mean, reduction="none").sum(-1)
