"""Codes of categorical variables, each a one-hot block of a vector, and their Concrete relaxation.

A vector of G blocks side by side, event shape `(G * C,)`, is what a decoder reads; so a code takes the place of any
latent vector. torch's `OneHotCategorical` and `RelaxedOneHotCategorical` hold one block with an axis of its own, list
the values of one block alone, and lose the relaxed densities in single precision: values that underflow are scored at a
bound, and log p - log q then exceeds the truth by tens of nats. Its `RelaxedBernoulli` rounds draws to 1 - 1e-7.
"""

import copy
import math
from typing import Any

import torch
from pyro.distributions import constraints, is_validation_enabled
from torch import Tensor
from torch.distributions import biject_to, register_kl, transforms

from zoo.parts.checks import check_positive
from zoo.parts.distributions.vector import VectorDistribution, version_of

#: codes that `enumerate_support` lists at most
MOST_LISTED = 4096


class Simplices(constraints.Constraint):
    """Vectors of blocks of numbers >= 0 that sum to 1 in each block, up to rounding.

    Args:
        groups: number of blocks.
        categories: length of a block.
    """

    event_dim = 1

    def __init__(self, groups: int, categories: int) -> None:
        self.groups, self.categories = groups, categories
        super().__init__()

    def __repr__(self) -> str:
        # torch's own drops the first letter of the name, and says no sizes
        return f"{type(self).__name__}(groups={self.groups}, categories={self.categories})"

    def check(self, value: Tensor) -> Tensor:
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        blocks = value.unflatten(-1, (self.groups, self.categories))
        one = (blocks.sum(-1) - 1).abs() < torch.finfo(value.dtype).eps ** 0.5
        return ((blocks >= 0).all(-1) & one).all(-1)


@biject_to.register(Simplices)
def _broken_sticks(support: Simplices) -> transforms.Transform:
    """The map from `groups * (categories - 1)` real numbers, for autoguides, NUTS, and the count of free numbers."""
    blocks = torch.Size((support.groups, support.categories))
    free = torch.Size((support.groups, support.categories - 1))
    return transforms.ComposeTransform([
        transforms.ReshapeTransform(torch.Size((free.numel(),)), free),
        transforms.StickBreakingTransform(),
        transforms.ReshapeTransform(blocks, torch.Size((blocks.numel(),))),
    ])  # fmt: skip


class Codes(Simplices):
    """Vectors of one-hot blocks; points between them pass, since the bound of Jang et al. decodes such points."""

    is_discrete = True


class _Blocks(VectorDistribution):
    """A distribution of independent blocks, given by logits (abstract).

    Args:
        logits: `(..., groups, categories)`, up to a constant of each block.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits.shape[:-2], logits.shape[-2] * logits.shape[-1])
        self.logits = logits.log_softmax(-1)

    def _expand(self, batch_shape: torch.Size) -> Any:
        # the logits stay as they are and broadcast: particles share the work on them
        new = copy.copy(self)
        VectorDistribution.__init__(new, batch_shape, self._event_shape[0])
        return new

    @property
    def _sizes(self) -> tuple[int, int]:
        """Numbers of blocks and of categories."""
        return self.logits.shape[-2], self.logits.shape[-1]

    def _noisy(self, sample_shape: torch.Size) -> Tensor:
        """Logits plus Gumbel noise: the largest of a block is at category c with the probability of c."""
        shape = torch.Size(sample_shape) + self._batch_shape + self.logits.shape[-2:]
        waiting = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_()
        # torch's smallest draw depends on its build; at 0 the noise would be infinite, and its softmax NaN
        return self.logits - waiting.clamp_(min=torch.finfo(waiting.dtype).eps / 2).log_()


class OneHotCode(_Blocks):
    """p(z) = prod_g Categorical(z_g; softmax(logits_g)), z_g a one-hot block of z.

    Values between the one-hot ones are scored by the same formula, which is linear in z.

    Args:
        logits: `(..., groups, categories)`, up to a constant of each block; -inf rules a category out.
    """

    has_enumerate_support = True

    @property
    def support(self) -> Codes:
        return Codes(*self._sizes)

    @property
    def mean(self) -> Tensor:
        return self.logits.exp().flatten(-2).expand(self._batch_shape + self._event_shape)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return vertices(self._noisy(sample_shape)).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = self._vectors(value).unflatten(-1, self._sizes)
        # a category that was ruled out and not drawn counts 0, where -inf times 0 is NaN
        return self._full((blocks * self.logits.masked_fill(blocks == 0, 0.0)).sum((-2, -1)))

    def entropy(self) -> Tensor:
        return self._full(-expected(self.logits, self.logits).sum((-2, -1)))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All codes, `(C^G, ..., G * C)`, the last block changing fastest; axes of the batch are 1 without `expand`.

        Raises:
            ValueError: there are more than 4,096.
        """
        groups, categories = self._sizes
        if groups * math.log(categories) > math.log(MOST_LISTED) + 1e-9:
            raise ValueError(
                f"OneHotCode: {categories}^{groups} codes are too many to sum over, at most {MOST_LISTED:,} are "
                "listed. Draw them: RLOO trains by draws"
            )
        one = torch.eye(categories, dtype=self.logits.dtype, device=self.logits.device)
        places = torch.cartesian_prod(*[torch.arange(categories, device=one.device)] * groups).view(-1, groups)
        codes = one[places].flatten(-2)
        codes = codes.reshape(len(codes), *(1 for _ in self._batch_shape), -1)
        return codes.expand(-1, *self._batch_shape, -1) if expand else codes


class Concrete(_Blocks):
    """q(z) = prod_g of the density of softmax((logits_g + Gumbel noise) / temperature), block z_g of z.

    At low temperatures a block is nearly one-hot, its largest entry at a draw of Categorical(softmax(logits_g)). In
    float32 the entries hold their logarithms while logits stay within +-10 and the temperature is 0.5 or more.

    References: Maddison, Mnih and Teh 2017; Jang, Gu and Poole 2017.

    Args:
        logits: `(..., groups, categories)`, up to a constant of each block.
        temperature: one number > 0.
        hard: draws are one-hot and have the derivative of the relaxed draw (straight-through). They have no density.

    Raises:
        ValueError: the temperature is not positive; not checked under `pyro.enable_validation(False)`.
    """

    has_rsample = True
    # of the latest draw: value, its logarithm by blocks, and the number of writes to the value
    _drawn: tuple[Any, Any, int] = (None, None, 0)

    def __init__(self, logits: Tensor, temperature: Tensor, *, hard: bool = False) -> None:
        super().__init__(logits)
        # a schedule moves the temperature between two steps, so its value is looked at each time
        if is_validation_enabled():
            check_positive(temperature=temperature.item())
        self.temperature, self.hard = temperature, hard

    @property
    def support(self) -> Simplices:
        return Simplices(*self._sizes)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        log_value = (self._noisy(sample_shape) / self.temperature).log_softmax(-1)
        value = log_value.exp()
        if self.hard:
            # the difference in brackets is exactly 0, so that the draw is exactly one-hot
            value = vertices(log_value) + (value - value.detach())
        value = value.flatten(-2)
        self._drawn = value, log_value, version_of(value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self.hard:
            raise ValueError(
                "a straight-through draw has no density. Take ELBO(analytic_kl=True), and CodePrior without a "
                "temperature"
            )
        drawn, log_value, version = self._drawn
        if value is not drawn or version != version_of(value):
            log_value = self._vectors(value).unflatten(-1, self._sizes).log()
            # Scored at a bound instead, a density of many categories would be too large by tens of nats.
            if is_validation_enabled() and bool((value == 0).any()):
                raise ValueError(
                    f"an entry of the relaxed code is 0, below the smallest {str(value.dtype)[6:]}: take a "
                    "temperature of 0.5 or more, or float64"
                )
        t, (groups, categories) = self.temperature, self._sizes
        tilted = self.logits - t * log_value
        each = (tilted - log_value).sum(-1) - categories * tilted.logsumexp(-1)
        # (C - 1)! t^(C - 1) of each block, in logarithms
        return self._full(each.sum(-1) + groups * (math.lgamma(categories) + (categories - 1) * t.log()))


def vertices(scores: Tensor) -> Tensor:
    """One-hot vectors along the last axis, 1 at the largest score."""
    # a comparison: torch's `one_hot` reads the largest number of classes, at which a captured graph breaks
    places = torch.arange(scores.shape[-1], device=scores.device)
    return (scores.argmax(-1, keepdim=True) == places).to(scores.dtype)


def expected(logits: Tensor, values: Tensor) -> Tensor:
    """Probabilities times values, 0 where the probability is 0 whatever the value."""
    probabilities = logits.exp()
    return probabilities * values.masked_fill(probabilities == 0, 0.0)


@register_kl(OneHotCode, OneHotCode)
@register_kl(Concrete, OneHotCode)
def _kl_codes(q: OneHotCode | Concrete, p: OneHotCode) -> Tensor:
    # a relaxed q counts as the code of its logits: the bound of Jang et al. relaxes the decoder's input alone
    divergence = expected(q.logits, q.logits - p.logits).sum((-2, -1))
    return divergence.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
