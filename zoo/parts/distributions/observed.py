"""The density of those entries of a vector that are observed."""

import copy
from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution, MultivariateNormal, TorchDistribution
from torch import Tensor

from zoo.parts.distributions.mixture import MixtureOfNormalsDensity
from zoo.parts.distributions.vector import LOG_2PI, VectorDistribution


class ObservedEntries(VectorDistribution):
    """p(the observed entries of x): a density over vectors, scored at the entries that a mask shows.

    Missing entries of a value change neither the score nor its gradient. Draws are of all entries.

    Args:
        p: the density over all entries; `observed_entries` tells which ones serve.
        mask: boolean `(..., d)`, True where observed.
    """

    def __init__(self, p: Any, mask: Tensor) -> None:
        self.p, self.mask_of_entries = p, mask
        self.has_rsample = p.has_rsample
        super().__init__(torch.broadcast_shapes(p.batch_shape, mask.shape[:-1]), p.event_shape[0])

    @property
    def support(self) -> Any:
        return self.p.support

    def _expand(self, batch_shape: torch.Size) -> "ObservedEntries":
        return ObservedEntries(self.p.expand(batch_shape), self.mask_of_entries)

    @property
    def mean(self) -> Tensor:
        return self.p.mean

    @property
    def variance(self) -> Tensor:
        return self.p.variance

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.p.expand(self._batch_shape).sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.p.expand(self._batch_shape).rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._vectors(value)
        if isinstance(self.p, MultivariateNormal):
            return self._full(_normal_marginal(self.p, value, self.mask_of_entries))
        return self._full(self.p.log_prob_of_observed(value, self.mask_of_entries))


def observed_entries(p: Any, mask: Tensor) -> TorchDistribution:
    """p(the observed entries of x), of a density p over vectors.

    It is the product over the observed entries where the entries of x are independent, and the marginal of a
    `MultivariateNormal` or of a mixture of diagonal Normals.

    Args:
        p: `Independent` over single entries, a distribution of the zoo with `log_prob_of_observed(value, mask)`, or a
            `MultivariateNormal`.
        mask: boolean `(..., d)`, True where observed.

    Raises:
        ValueError: the density has no such part; names it.
    """
    if hasattr(p, "log_prob_of_observed") or isinstance(p, MultivariateNormal):
        return ObservedEntries(p, mask)
    if isinstance(p, torch.distributions.Independent) and len(p.event_shape) == 1 and not p.base_dist.event_shape:
        # the mask is inside: outside of `Independent` it would be one of whole data points
        return Independent(MaskedDistribution(p.base_dist, mask), 1)
    raise ValueError(
        f"mask: the entries of x are not independent under {type(p).__name__}, so it says no density of the observed "
        "entries alone; take Normal(...).to_event(1) and its like, a MultivariateNormal, or state "
        "log_prob_of_observed(value, mask)"
    )


def given_observed(p: Any, value: Tensor) -> tuple[Any, Tensor | None]:
    """p(x | the observed entries of x) of a site's density that `observed_entries` has made, and its mask.

    Only the missing entries of its draws and of its mean have a meaning. The mask is None where the density is one of
    all entries.

    Args:
        p: the density of the site.
        value: of the site.
    """
    if isinstance(p, ObservedEntries):
        return _conditional(p.p.expand(p.batch_shape), value, p.mask_of_entries), p.mask_of_entries
    base = getattr(p, "base_dist", None)
    if isinstance(base, MaskedDistribution) and p.event_dim == 1:
        return Independent(base.base_dist, 1), base._mask
    return p, None


def _conditional(p: Any, value: Tensor, mask: Tensor) -> Any:
    """p(x | observed entries) of a density whose entries may depend on one another."""
    if isinstance(p, MixtureOfNormalsDensity):
        # the observed entries say which component the vector comes from
        known = p.components.log_prob_of_observed(value.unsqueeze(-2), mask.unsqueeze(-2))
        new = copy.copy(p)
        new.logits = (p.logits + known).log_softmax(-1)
        return new
    if not isinstance(p, MultivariateNormal):
        return p
    covariance, unit = p.covariance_matrix, torch.eye(mask.shape[-1], dtype=p.loc.dtype, device=p.loc.device)
    seen = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), covariance, unit)
    # regression of all entries on the observed ones, by S_.o S_oo^-1
    gain = torch.linalg.solve(seen, torch.where(mask.unsqueeze(-1), covariance, 0.0)).mT
    loc = p.loc + (gain @ torch.where(mask, value - p.loc, 0.0).unsqueeze(-1)).squeeze(-1)
    # observed entries have no variance left: a unit one keeps the matrix positive definite
    left = covariance - gain @ torch.where(mask.unsqueeze(-1), covariance, 0.0)
    hidden = ~mask
    return MultivariateNormal(loc, torch.where(hidden.unsqueeze(-1) & hidden.unsqueeze(-2), left, unit))


def _normal_marginal(p: MultivariateNormal, value: Tensor, mask: Tensor) -> Tensor:
    """log N of the observed entries, by a covariance in which the missing ones are N(0, 1), independent, and at 0."""
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    unit = torch.eye(mask.shape[-1], dtype=p.loc.dtype, device=p.loc.device)
    covariance = torch.where(both, p.covariance_matrix, unit)
    loc, value = (torch.where(mask, v, 0.0) for v in (p.loc, value))
    # each missing entry has added log N(0; 0, 1)
    missing = mask.logical_not().sum(-1).to(loc.dtype)
    return MultivariateNormal(loc, covariance).log_prob(value) + 0.5 * LOG_2PI * missing
