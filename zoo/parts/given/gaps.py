"""Missing entries of data that are vectors: observed under a mask, True where an entry of x is known.

(Masks of sequences have a time axis, and a module of their own, `zoo.parts.trajectory.masks`.)
"""

from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import transform_to

from zoo.parts.checks import element
from zoo.parts.distributions.observed import observed_entries
from zoo.parts.once import once

_WITH_ZERO = type(constraints.real), type(constraints.boolean)


def observe(site: str, p: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """`pyro.sample(site, p, obs=x)`; with a mask the observation of the entries where the mask is True.

    Missing entries are neither scored nor seen: their contents, NaN too, change no value and no gradient.

    Args:
        site: name of the site.
        p: density of x, event shape `(d,)`.
        x: `(N, d)`.
        mask: boolean `(N, d)`; None: nothing is missing.

    Returns:
        The value of the site: x, with a harmless value in each missing entry.

    Raises:
        ValueError: the density has no part for observed entries (`observed_entries`).
    """
    if mask is None:
        return pyro.sample(site, p, obs=x)
    # NaN is replaced before it is scored, not after: a masked score of NaN is 0, but its gradient is NaN
    one = element(p.support)
    # the usual supports are told by their class, as a look at values waits for the device
    usual = isinstance(one, _WITH_ZERO) or bool(torch.as_tensor(one.check(x.new_zeros(()))).all())
    value = zero_filled(x, mask) if usual else torch.where(mask, x, _harmless(one, x))
    return pyro.sample(site, observed_entries(p, mask), obs=value)


@once
def zero_filled(x: Tensor, mask: Tensor) -> Tensor:
    """x, 0 where it is missing: the value that encoders read, and most likelihoods score."""
    return x.masked_fill(mask.logical_not(), 0.0)


def _harmless(one: Any, x: Tensor) -> Tensor:
    """A value within a support of entries that does not hold 0."""
    if isinstance(one, constraints.integer_interval):
        return torch.as_tensor(one.lower_bound).to(x)
    # positive numbers, an interval: the image of 0 lies inside
    return transform_to(one)(x.new_zeros(())).detach()


def central_interval(draws: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of the central intervals that hold `mass` of the draws along the first axis.

    Raises:
        ValueError: a mass that is not between 0 and 1.
    """
    if not 0 < mass < 1:
        raise ValueError(f"mass: expected a number between 0 and 1, got {mass}")
    lower, upper = draws.quantile(draws.new_tensor([(1 - mass) / 2, (1 + mass) / 2]), dim=0)
    return lower, upper
