"""Light distributions over vectors: the densities of the hot path, event shape `(d,)`.

They do what `Normal(loc, scale).to_event(1)` and its like do, without argument broadcasting and wrapping at every
construction: about 4 points of a training step at MNIST size and 30 on a toy (`benchmarks/vae_step.py`). Inside a
`pyro.plate` of their own batch shape they are used as they are (`expand` returns the same object).
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence, register_kl

from zoo.parts.distributions.vector import VectorDistribution, version_of

_LOG_2PI = math.log(2 * math.pi)


class UnitNormal(VectorDistribution):
    """p(z) = N(z; 0, I) over R^dim; `like` gives dtype and device."""

    has_rsample = True
    support = constraints.real_vector

    def __init__(self, dim: int, like: Tensor, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        super().__init__(batch_shape, dim)
        self.like = like

    def _expand(self, batch_shape: torch.Size) -> "UnitNormal":
        return UnitNormal(self._event_shape[0], self.like, batch_shape)

    @property
    def mean(self) -> Tensor:
        return self.like.new_zeros(self._batch_shape + self._event_shape)

    @property
    def variance(self) -> Tensor:
        return self.like.new_ones(self._batch_shape + self._event_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self._batch_shape + self._event_shape
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._vectors(value)
        return self._full((value * value).sum(-1) * -0.5 - 0.5 * _LOG_2PI * self._event_shape[0])

    def entropy(self) -> Tensor:
        return self.like.new_full(self._batch_shape, 0.5 * (1 + _LOG_2PI) * self._event_shape[0])


class DiagonalNormal(VectorDistribution):
    """q(z) = prod_i N(z_i; loc_i, scale_i^2). Give `scale`, or `log_scale` where that is what a network puts out.

    The other one is computed when it is asked for. With `log_scale` a density is not scored by way of the scale: where
    exp(log_scale) overflows, as it may under a mask, scores and their gradients are still finite.
    """

    has_rsample = True
    support = constraints.real_vector
    _drawn: tuple[Any, Any, int] = (None, None, 0)  # the latest draw, its noise, and how often it was written to
    _made_of = 0  # the same of what the other one was made of
    _scale: Any
    _log_scale: Any

    def __init__(self, loc: Tensor, scale: Tensor | None = None, *, log_scale: Tensor | None = None) -> None:
        if (scale is None) == (log_scale is None):
            raise ValueError("DiagonalNormal takes `scale` or `log_scale`, one of the two")
        self._by_log = by_log = scale is None
        given: Any = log_scale if scale is None else scale
        if given.shape != loc.shape:
            loc, given = torch.broadcast_tensors(loc, given)
        self.loc, self._scale, self._log_scale = loc, None if by_log else given, given if by_log else None
        super().__init__(loc.shape[:-1], loc.shape[-1])

    def _expand(self, batch_shape: torch.Size) -> "DiagonalNormal":
        new = object.__new__(DiagonalNormal)  # what is computed of one particle serves all of them
        VectorDistribution.__init__(new, batch_shape, self._event_shape[0])
        shape = batch_shape + self._event_shape
        new.loc, new._scale, new._log_scale = (v.expand(shape) for v in (self.loc, self.scale, self.log_scale))
        new._by_log, new._made_of = self._by_log, self._made_of
        return new

    @property
    def scale(self) -> Tensor:
        return self._made("_scale", self._log_scale, torch.exp) if self._by_log else self._scale

    @property
    def log_scale(self) -> Tensor:
        return self._log_scale if self._by_log else self._made("_log_scale", self._scale, torch.log)

    def _made(self, name: str, given: Any, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The other one, kept while nobody writes to what was given, but not without the graph that it should have."""
        found: Any = getattr(self, name)
        if found is None or version_of(given) != self._made_of:
            found = make(given)
            if torch.is_grad_enabled() or not given.requires_grad:
                setattr(self, name, found)
                self._made_of = version_of(given)
        return found

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale**2

    @property
    def stddev(self) -> Tensor:
        return self.scale

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = torch.addcmul(self.loc, self.scale, noise)
        self._drawn = value, noise, version_of(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        away = self._vectors(value) - self.loc
        return self.log_prob_at(away * (-self.log_scale).exp() if self._by_log else away / self.scale)

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """`log_prob`; of its own latest draw by the noise behind it, with the parameters' gradient in fewer steps.

        They move the draw along: their effects on (value - loc) / scale cancel, that on -log scale is left. The value
        itself gets no gradient.
        """
        drawn, noise, version = self._drawn
        own = value is drawn and value.requires_grad and version == version_of(value)
        return self.log_prob_at(noise) if own else self.log_prob(value)

    @property
    def noise_of_draw(self) -> Tensor:
        """(value - loc) / scale of the latest draw."""
        return self._drawn[1]

    def log_prob_at(self, noise: Tensor) -> Tensor:
        """`log_prob(loc + scale * noise)`."""
        return -0.5 * _LOG_2PI * self._event_shape[0] - torch.addcmul(self.log_scale, noise, noise, value=0.5).sum(-1)

    def entropy(self) -> Tensor:
        return self.log_scale.sum(-1) + 0.5 * (1 + _LOG_2PI) * self._event_shape[0]


class IndependentBernoulli(VectorDistribution):
    """p(x) = prod_i Bernoulli(x_i; sigmoid(logits_i)), x in {0, 1}^d."""

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
        logits, target = self.logits, self._vectors(value)
        if target.shape != logits.shape:  # one x under many particles, or many under one
            logits, target = torch.broadcast_tensors(logits, target)
        if target.dtype != logits.dtype:  # torch's loss would have the target's
            target = target.to(torch.promote_types(target.dtype, logits.dtype))
        return -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.mean, reduction="none").sum(-1)


class IndependentDiscretizedLogistic(VectorDistribution):
    """p(x) = prod_i [F((x_i + 1/2 - loc_i) / scale_i) - F((x_i - 1/2 - loc_i) / scale_i)], F the logistic function.

    x holds the levels 0, 1, ..., levels - 1; the first and the last bin take the tails, so that the levels sum to one.
    `loc` and `scale` are in units of one level. Reference: Kingma et al. 2016 (IAF), appendix; Salimans et al. 2017.
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
        """sum_l term(l) p(x_i = l); one level at a time, as all at once may be too many for the memory."""
        total = torch.zeros_like(self.loc)
        for level in range(self.levels):
            total = total + term(level) * self._each(torch.full_like(self.loc, level)).exp()
        return total

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            loc = self.loc.expand(torch.Size(sample_shape) + self.loc.shape)
            uniform = torch.rand_like(loc).clamp(1e-6, 1 - 1e-6)
            return (loc + self.log_scale.exp() * torch.logit(uniform)).round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._each(self._vectors(value)).sum(-1)

    def _each(self, value: Tensor) -> Tensor:
        """log p(x_i)."""
        rate = torch.exp(-self.log_scale)
        upper, lower = (value + 0.5 - self.loc) * rate, (value - 0.5 - self.loc) * rate
        # log(F(u) - F(l)) = log F(u) + log F(-l) + log(1 - exp(l - u)), exact and without cancellation
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-rate))
        first, last = value < 0.5, value > self.levels - 1.5
        return torch.where(first, F.logsigmoid(upper), torch.where(last, F.logsigmoid(-lower), inner))


class MixtureOfNormalsDensity(VectorDistribution):
    """p(x) = sum_k pi_k prod_i N(x_i; loc_ki, scale_ki^2): whole vectors choose their component.

    Args:
        logits: `(..., K)`, log pi up to a constant.
        loc, scale: `(..., K, d)`.
    """

    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        loc, scale = torch.broadcast_tensors(loc, scale)
        if logits.shape[-1:] != loc.shape[-2:-1]:
            raise ValueError(f"{self._name}: {tuple(logits.shape)} logits for components of shape {tuple(loc.shape)}")
        super().__init__(torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2]), loc.shape[-1])
        self.logits, self.loc, self.scale = self._of_batch(logits.log_softmax(-1), loc, scale)

    def _of_batch(self, logits: Tensor, *normal: Tensor) -> tuple[Tensor, ...]:
        batch = self._batch_shape
        return logits.expand(*batch, -1), *(v.expand(*batch, -1, -1) for v in normal)

    def _expand(self, batch_shape: torch.Size) -> "MixtureOfNormalsDensity":
        new = copy.copy(self)
        new._batch_shape = batch_shape
        new.logits, new.loc, new.scale = new._of_batch(self.logits, self.loc, self.scale)
        return new

    @property
    def mean(self) -> Tensor:
        return (self.logits.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        weights = self.logits.exp().unsqueeze(-1)
        return (weights * (self.scale**2 + (self.loc - self.mean.unsqueeze(-2)) ** 2)).sum(-2)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            uniform = torch.rand(shape + self.logits.shape, dtype=self.loc.dtype, device=self.loc.device)
            chosen = (self.logits - torch.log(-torch.log(uniform))).argmax(-1)  # Gumbel's maximum: k ~ pi
            index = chosen[..., None, None].expand(*chosen.shape, 1, self._event_shape[0])
            loc, scale = (v.expand(shape + v.shape).gather(-2, index).squeeze(-2) for v in (self.loc, self.scale))
            return torch.addcmul(loc, scale, torch.randn_like(loc))

    def log_prob(self, value: Tensor) -> Tensor:
        noise = (self._vectors(value).unsqueeze(-2) - self.loc) / self.scale
        each = -torch.addcmul(self.scale.log(), noise, noise, value=0.5).sum(-1)
        return torch.logsumexp(self.logits + each, -1) - 0.5 * _LOG_2PI * self._event_shape[0]


@register_kl(DiagonalNormal, UnitNormal)
def _kl_diagonal_unit(q: DiagonalNormal, p: UnitNormal) -> Tensor:
    return p._full(0.5 * ((q.scale**2 + q.loc**2 - 1).sum(-1) - 2 * q.log_scale.sum(-1)))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return 0.5 * (ratio**2 + shift**2 - 1).sum(-1) - (q.log_scale - p.log_scale).sum(-1)


@register_kl(UnitNormal, DiagonalNormal)
def _kl_unit_diagonal(q: UnitNormal, p: DiagonalNormal) -> Tensor:
    return kl_divergence(DiagonalNormal(q.mean, q.variance), p)


@register_kl(UnitNormal, UnitNormal)
def _kl_unit_unit(q: UnitNormal, p: UnitNormal) -> Tensor:
    return p._full(q.like.new_zeros(q.batch_shape))


def _dense(p: DiagonalNormal | UnitNormal) -> MultivariateNormal:
    return MultivariateNormal(p.mean, scale_tril=torch.diag_embed(p.variance.sqrt()))


def _light(fn: Independent) -> DiagonalNormal:
    """`Normal(loc, scale).to_event(1)` as the light density that it equals."""
    if fn.reinterpreted_batch_ndims != 1 or not isinstance(fn.base_dist, Normal):
        raise NotImplementedError(f"no closed-form KL with {fn}: expected Normal(loc, scale).to_event(1)")
    return DiagonalNormal(fn.base_dist.loc, fn.base_dist.scale)


@register_kl(Independent, UnitNormal)
@register_kl(Independent, DiagonalNormal)
def _kl_independent_light(q: Independent, p: DiagonalNormal | UnitNormal) -> Tensor:
    return kl_divergence(_light(q), p)


@register_kl(DiagonalNormal, Independent)
@register_kl(UnitNormal, Independent)
@register_kl(MultivariateNormal, Independent)
def _kl_light_independent(q: DiagonalNormal | UnitNormal | MultivariateNormal, p: Independent) -> Tensor:
    return kl_divergence(q, _light(p))


@register_kl(MultivariateNormal, UnitNormal)
@register_kl(MultivariateNormal, DiagonalNormal)
def _kl_dense_diagonal(q: MultivariateNormal, p: DiagonalNormal | UnitNormal) -> Tensor:
    return kl_divergence(q, _dense(p))


@register_kl(DiagonalNormal, MultivariateNormal)
@register_kl(UnitNormal, MultivariateNormal)
def _kl_diagonal_dense(q: DiagonalNormal | UnitNormal, p: MultivariateNormal) -> Tensor:
    return kl_divergence(_dense(q), p)
