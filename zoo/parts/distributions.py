"""Light distributions over vectors: the densities of the hot path, event shape `(d,)`.

They do what `Normal(loc, scale).to_event(1)` and its like do, without argument broadcasting and wrapping at every
construction: about 4 points of a training step at MNIST size and 30 on a toy (`benchmarks/vae_step.py`). Inside a
`pyro.plate` of their own batch shape they are used as they are (`expand` returns the same object).
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence, register_kl

_LOG_2PI = math.log(2 * math.pi)


class VectorDistribution(TorchDistribution):
    """Common ground (abstract): shapes are set, not derived, and validation is left to the check of the pair."""

    has_rsample = False
    arg_constraints: ClassVar[dict] = {}

    def __init__(self, batch_shape: torch.Size, dim: int) -> None:
        self._batch_shape = batch_shape
        self._event_shape = torch.Size((dim,))
        self._validate_args = False

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "VectorDistribution":
        batch_shape = torch.Size(batch_shape)
        return self if batch_shape == self._batch_shape else self._expand(batch_shape)

    def _expand(self, batch_shape: torch.Size) -> "VectorDistribution":
        raise TypeError(f"{type(self).__name__} does not say how it expands to {tuple(batch_shape)}")


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
        return (value * value).sum(-1) * -0.5 - 0.5 * _LOG_2PI * self._event_shape[0]


class DiagonalNormal(VectorDistribution):
    """q(z) = prod_i N(z_i; loc_i, scale_i^2). Give `scale`, or `log_scale` where that is what a network puts out.

    The other one is computed where it is asked for. With `log_scale` a density is not scored by way of the scale: where
    exp(log_scale) overflows, as it may under a mask, scores and their gradients are still finite.
    """

    has_rsample = True
    support = constraints.real_vector
    _drawn: tuple[Any, Any] = (None, None)

    def __init__(self, loc: Tensor, scale: Tensor | None = None, *, log_scale: Tensor | None = None) -> None:
        if (scale is None) == (log_scale is None):
            raise ValueError("DiagonalNormal takes `scale` or `log_scale`, one of the two")
        if log_scale is not None:
            if log_scale.shape != loc.shape:
                loc, log_scale = torch.broadcast_tensors(loc, log_scale)
        elif scale is not None and scale.shape != loc.shape:
            loc, scale = torch.broadcast_tensors(loc, scale)
        self.loc, self._scale, self._log_scale, self._by_log = loc, scale, log_scale, scale is None
        super().__init__(loc.shape[:-1], loc.shape[-1])

    def _expand(self, batch_shape: torch.Size) -> "DiagonalNormal":
        new = object.__new__(DiagonalNormal)  # what is computed of one particle serves all of them
        VectorDistribution.__init__(new, batch_shape, self._event_shape[0])
        shape = batch_shape + self._event_shape
        new.loc, new._scale, new._log_scale = self.loc.expand(shape), self.scale.expand(shape), self.log_scale
        new._by_log = self._by_log
        return new

    @property
    def scale(self) -> Tensor:
        return self._made("_scale", self._log_scale, torch.exp)

    @property
    def log_scale(self) -> Tensor:
        return self._made("_log_scale", self._scale, torch.log)

    def _made(self, name: str, given: Any, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What is there or made of what was given; kept, but not without the graph that it should have."""
        found = getattr(self, name)
        if found is None:
            found = make(given)
            if torch.is_grad_enabled() or not given.requires_grad:
                setattr(self, name, found)
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
        self._drawn = value, noise
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        away = value - self.loc
        return self.log_prob_at(away * (-self.log_scale).exp() if self._by_log else away / self.scale)

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """`log_prob`; of its own latest draw by the noise behind it, with the parameters' gradient in fewer steps.

        They move the draw along: their effects on (value - loc) / scale cancel, that on -log scale is left. The value
        itself gets no gradient.
        """
        drawn, noise = self._drawn
        return self.log_prob_at(noise) if value is drawn and value.requires_grad else self.log_prob(value)

    @property
    def noise_of_draw(self) -> Tensor:
        """(value - loc) / scale of the latest draw."""
        return self._drawn[1]

    def log_prob_at(self, noise: Tensor) -> Tensor:
        """`log_prob(loc + scale * noise)`."""
        return -0.5 * _LOG_2PI * self._event_shape[0] - torch.addcmul(self.log_scale, noise, noise, value=0.5).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_scale.sum(-1) + 0.5 * (1 + _LOG_2PI) * self._event_shape[0]).expand(self._batch_shape)


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
        target = value.expand_as(self.logits)  # one x under many particles
        return -F.binary_cross_entropy_with_logits(self.logits, target, reduction="none").sum(-1)


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
        return self.loc.clamp(0, self.levels - 1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            loc = self.loc.expand(torch.Size(sample_shape) + self.loc.shape)
            uniform = torch.rand_like(loc).clamp(1e-6, 1 - 1e-6)
            return (loc + self.log_scale.exp() * torch.logit(uniform)).round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        rate = torch.exp(-self.log_scale)
        upper, lower = (value + 0.5 - self.loc) * rate, (value - 0.5 - self.loc) * rate
        # log(F(u) - F(l)) = log F(u) + log F(-l) + log(1 - exp(l - u)), exact and without cancellation
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-rate))
        first, last = value < 0.5, value > self.levels - 1.5
        return torch.where(first, F.logsigmoid(upper), torch.where(last, F.logsigmoid(-lower), inner)).sum(-1)


class MixtureOfNormalsDensity(VectorDistribution):
    """p(x) = sum_k pi_k prod_i N(x_i; loc_ki, scale_ki^2): whole vectors choose their component.

    Args:
        logits: `(..., K)`, log pi up to a constant.
        loc, scale: `(..., K, d)`.
    """

    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc.shape[:-2], loc.shape[-1])
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale

    def _expand(self, batch_shape: torch.Size) -> "MixtureOfNormalsDensity":
        shapes = (batch_shape + v.shape[len(self._batch_shape) :] for v in (self.logits, self.loc, self.scale))
        parts = zip((self.logits, self.loc, self.scale), shapes, strict=True)
        return MixtureOfNormalsDensity(*(v.expand(shape) for v, shape in parts))

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
        noise = (value.unsqueeze(-2) - self.loc) / self.scale
        each = -torch.addcmul(self.scale.log(), noise, noise, value=0.5).sum(-1)
        return torch.logsumexp(self.logits + each, -1) - 0.5 * _LOG_2PI * self._event_shape[0]


@register_kl(DiagonalNormal, UnitNormal)
def _kl_diagonal_unit(q: DiagonalNormal, p: UnitNormal) -> Tensor:
    return 0.5 * ((q.scale**2 + q.loc**2 - 1).sum(-1) - 2 * q.log_scale.sum(-1))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return 0.5 * (ratio**2 + shift**2 - 1).sum(-1) - (q.log_scale - p.log_scale).sum(-1)


@register_kl(UnitNormal, DiagonalNormal)
def _kl_unit_diagonal(q: UnitNormal, p: DiagonalNormal) -> Tensor:
    return kl_divergence(DiagonalNormal(q.mean, q.variance), p)


@register_kl(UnitNormal, UnitNormal)
def _kl_unit_unit(q: UnitNormal, p: UnitNormal) -> Tensor:
    return q.like.new_zeros(q.batch_shape)


def _dense(p: DiagonalNormal | UnitNormal) -> MultivariateNormal:
    return MultivariateNormal(p.mean, scale_tril=torch.diag_embed(p.variance.sqrt()))


def _light(fn: Independent) -> DiagonalNormal:
    """`Normal(loc, scale).to_event(1)` as the light density that it equals."""
    if fn.reinterpreted_batch_ndims != 1 or not isinstance(fn.base_dist, Normal):
        raise NotImplementedError
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
