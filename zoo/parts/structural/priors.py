"""Distributions of the named tensors of a state-space model."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin

from zoo.parts.structural.sums import argument_names, spoken


def checked_priors(build: Callable, priors: Mapping[str, TorchDistribution] | None) -> dict[str, TorchDistribution]:
    """The priors of a model's named tensors, none for None.

    Args:
        build: function of named tensors that gives `kalman.Parameters`.
        priors: name -> distribution of one value for all sequences.

    Raises:
        TypeError: a prior that is no distribution of Pyro.
        ValueError: a name that `build` does not have; a prior of several values, each for itself; a discrete one; a
            variance that may be negative. Names the prior.
    """
    found = dict(priors or {})
    names = argument_names(build)
    anything = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(build).parameters.values())
    for name, prior in found.items():
        if name not in names and not anything:
            raise ValueError(f"priors: {spoken(build)} has no argument {name!r} but {names}")
        if not isinstance(prior, TorchDistributionMixin):
            raise TypeError(f"priors: {name}: expected a distribution of pyro.distributions, got {_kind(prior)}")
        if prior.batch_shape:
            raise ValueError(
                f"priors: {name}: expected one draw for all sequences, got a batch of shape "
                f"{tuple(prior.batch_shape)}; declare its axes as the event, with .to_event(...)"
            )
        if prior.support.is_discrete:
            raise ValueError(f"priors: {name}: expected a density, got the discrete {_kind(prior)}")
        if name.endswith("variance") and prior.support.check(-torch.ones(prior.event_shape)).all():
            raise ValueError(
                f"priors: {name}: expected a distribution of positive numbers, such as LogNormal, got {_kind(prior)} "
                f"on {prior.support}"
            )
    return found


def _kind(prior: Any) -> str:
    return type(prior).__name__
