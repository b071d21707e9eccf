"""Families over codes of categorical variables, each a one-hot block of z."""

from typing import Any

import torch
from torch import Tensor

from guides.families.family import Family
from zoo.parts.checks import check_counts, check_positive
from zoo.parts.distributions import Concrete, OneHotCode

#: largest relaxed logit: with it, the noise and a temperature of 0.5, entries of a draw stay above float32's smallest
BOUND = 10.0


def _groups(family: str, features: int, categories: int) -> int:
    """The number of blocks; refuses features that are no whole blocks."""
    check_counts(2, categories=categories)
    if features % categories:
        raise ValueError(f"{family}: {features} features are no multiple of {categories} categories")
    return features // categories


class GumbelSoftmax(Family):
    """q(z) = prod_g Concrete(z_g; logits_g, temperature) in training, logits = 10 tanh(a / 10), a linear in context.

    In evaluation mode the codes are one-hot, z_g ~ Categorical(softmax(logits_g)), so that `log_likelihood` bounds the
    discrete model. Training takes `ELBO(analytic_kl=True)` with `CodePrior(G, C)` (Jang et al.: the decoder reads
    relaxed codes, the KL is that of the one-hot ones, the value is no bound) or any objective with `CodePrior(G, C,
    temperature=)` (Maddison et al.: a bound for the relaxed model). The bounded logits keep the relaxed KL right in
    float32 from a temperature of 0.5 on.

    References: Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017.

    Args:
        features: length of z, a multiple of `categories`.
        context: length of the context.
        categories: number of values of each variable, at least 2.
        temperature: of the relaxation; low ones are nearly one-hot, and their gradients noisy.
        hard: straight-through draws, one-hot in training too, with the gradient of the relaxed draw; for
            `ELBO(analytic_kl=True)`.

    Attributes:
        temperature: a buffer, which `zoo.infer.Scheduled` moves.

    Raises:
        ValueError: features is no multiple of categories, categories < 2, or the temperature is not positive.
    """

    over_reals = False
    temperature: Tensor

    def __init__(
        self, features: int, context: int, *, categories: int, temperature: float = 1.0, hard: bool = False
    ) -> None:
        groups = _groups("GumbelSoftmax", features, categories)
        check_positive(temperature=temperature)
        super().__init__(features, context, features, locations=slice(features))
        self.groups, self.categories, self.hard = groups, categories, hard
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def density(self, parameters: Tensor, prior: Any) -> Concrete | OneHotCode:
        logits = BOUND * torch.tanh(parameters.unflatten(-1, (self.groups, self.categories)) / BOUND)
        return Concrete(logits, self.temperature, hard=self.hard) if self.training else OneHotCode(logits)


class OneHot(Family):
    """q(z) = prod_g Categorical(z_g; softmax(logits_g)), z_g a one-hot block of z, logits linear in the context.

    A draw has no path to the logits: it trains by the score (`RLOO`, `VIMCO`), or, where there are few codes, by the
    sum over them (`guides.Amortized(..., summed=True)`).

    References: Mnih and Rezende 2016.

    Args:
        features: length of z, a multiple of `categories`.
        context: length of the context.
        categories: number of values of each variable, at least 2.

    Raises:
        ValueError: features is no multiple of categories, or categories < 2.
    """

    over_reals = False

    def __init__(self, features: int, context: int, *, categories: int) -> None:
        groups = _groups("OneHot", features, categories)
        super().__init__(features, context, features, locations=slice(features))
        self.groups, self.categories = groups, categories

    def density(self, parameters: Tensor, prior: Any) -> OneHotCode:
        return OneHotCode(parameters.unflatten(-1, (self.groups, self.categories)))
