"""Closed-form divergences KL(q || p) of the house's Normals, between themselves and with torch's.

`torch.distributions.kl_divergence` finds them by the types of q and p, once this module is imported.
"""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence, register_kl

from zoo.parts.distributions.vector import DiagonalNormal, UnitNormal


@register_kl(DiagonalNormal, UnitNormal)
def _kl_diagonal_unit(q: DiagonalNormal, p: UnitNormal) -> Tensor:
    return p._full(0.5 * ((q.scale**2 + q.loc**2 - 1).sum(-1) - 2 * q.log_scale.sum(-1)))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return 0.5 * (ratio**2 + shift**2 - 1).sum(-1) - (q.log_scale - p.log_scale).sum(-1)


@register_kl(UnitNormal, DiagonalNormal)
def _kl_unit_diagonal(q: UnitNormal, p: DiagonalNormal) -> Tensor:
    # the variances of q, all one, serve as its scales
    return kl_divergence(DiagonalNormal(q.mean, q.variance), p)


@register_kl(UnitNormal, UnitNormal)
def _kl_unit_unit(q: UnitNormal, p: UnitNormal) -> Tensor:
    return p._full(q.like.new_zeros(q.batch_shape))


def _dense(p: DiagonalNormal | UnitNormal) -> MultivariateNormal:
    return MultivariateNormal(p.mean, scale_tril=torch.diag_embed(p.variance.sqrt()))


def _diagonal(fn: Independent) -> DiagonalNormal:
    """`Normal(loc, scale).to_event(1)` as the `DiagonalNormal` that it equals."""
    # torch registers by the wrapper's type alone, so `Independent` may hold any density
    if fn.reinterpreted_batch_ndims != 1 or not isinstance(fn.base_dist, Normal):
        raise NotImplementedError(f"no closed-form KL with {fn}: expected Normal(loc, scale).to_event(1)")
    return DiagonalNormal(fn.base_dist.loc, fn.base_dist.scale)


@register_kl(Independent, UnitNormal)
@register_kl(Independent, DiagonalNormal)
def _kl_independent_diagonal(q: Independent, p: DiagonalNormal | UnitNormal) -> Tensor:
    return kl_divergence(_diagonal(q), p)


@register_kl(DiagonalNormal, Independent)
@register_kl(UnitNormal, Independent)
@register_kl(MultivariateNormal, Independent)
def _kl_diagonal_independent(q: DiagonalNormal | UnitNormal | MultivariateNormal, p: Independent) -> Tensor:
    return kl_divergence(q, _diagonal(p))


@register_kl(MultivariateNormal, UnitNormal)
@register_kl(MultivariateNormal, DiagonalNormal)
def _kl_dense_diagonal(q: MultivariateNormal, p: DiagonalNormal | UnitNormal) -> Tensor:
    return kl_divergence(q, _dense(p))


@register_kl(DiagonalNormal, MultivariateNormal)
@register_kl(UnitNormal, MultivariateNormal)
def _kl_diagonal_dense(q: DiagonalNormal | UnitNormal, p: MultivariateNormal) -> Tensor:
    return kl_divergence(_dense(q), p)
