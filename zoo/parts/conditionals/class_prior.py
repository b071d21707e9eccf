"""The prior over classes."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Categorical
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.recorded import Recorded


class ClassPrior(Recorded, nn.Module):
    """p(y) over classes y in {0, ..., num_classes - 1}: fixed probabilities, all the same unless they are given.

    Args:
        num_classes: C, at least 2.
        probs: a probability for each class, up to a constant; a class of probability 0 is ruled out.

    Raises:
        ValueError: fewer than two classes; probabilities of another number, negative, infinite, or all zero.
    """

    logits: Tensor

    def __init__(self, num_classes: int, *, probs: Tensor | Sequence[float] | None = None) -> None:
        super().__init__()
        check_counts(least=2, num_classes=num_classes)
        weights = torch.ones(num_classes) if probs is None else torch.as_tensor(probs, dtype=torch.get_default_dtype())
        if weights.shape != (num_classes,) or not bool((weights >= 0).all() and 0 < weights.sum() < torch.inf):
            raise ValueError(f"probs: expected {num_classes} probabilities >= 0, not all of them 0, got {probs}")
        # a buffer, which `.to()` moves
        self.register_buffer("logits", weights.log() - weights.sum().log())

    def forward(self) -> Categorical:
        # the constructor has looked at the probabilities
        return Categorical(logits=self.logits, validate_args=False)


def class_prior_or_uniform(given: nn.Module | None, num_classes: int) -> Any:
    """The prior over classes that a model was given, or a uniform one.

    Raises:
        ValueError: fewer than two classes, or a prior over another number.
    """
    check_counts(least=2, num_classes=num_classes)
    prior: Any = ClassPrior(num_classes) if given is None else given
    if (found := prior().probs.shape) != (num_classes,):
        raise ValueError(f"class_prior: expected probabilities of {num_classes} classes, got shape {tuple(found)}")
    return prior
