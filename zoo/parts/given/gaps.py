"""Missing entries of data that are vectors: observed under a mask, True where an entry of x is known.

(Masks of sequences have a time axis, and a module of their own, `zoo.parts.trajectory.masks`.)
"""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import constraints, is_validation_enabled
from torch import Tensor
from torch.distributions import transform_to

from zoo.parts.checks import element, listed
from zoo.parts.distributions.observed import observed_entries
from zoo.parts.given.conditions import program_arguments
from zoo.parts.once import once

#: advice for data with NaN
MISSING = "say which {} are missing with mask="
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


def refuse_unmasked(program: Any, args: tuple, kwargs: Mapping[str, Any], first_row: int | Tensor = 0) -> None:
    """Refuses NaN in vectors that come without the mask which their program takes; nothing of other data.

    Sequences are checked by their models. Pyro's switch of validation holds.

    Args:
        program: model, or a guide that knows its model.
        args, kwargs: of the call, x first.
        first_row: number of the first row, or the numbers of all rows, for the error.

    Raises:
        ValueError: names the rows and the argument.
    """
    x = args[0] if args else None
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point() or not is_validation_enabled():
        return
    # one number is read, and the entries only if that is NaN, which infinite entries of both signs make it too
    if not bool(x.detach().sum().isnan()) or not (rows := x.isnan().any(-1).nonzero()[:, 0]).numel():
        return
    model = getattr(program, "model", program)
    names = program_arguments(model) if callable(model) else ()
    if "mask" in names and (dict(zip(names, args[1:], strict=False)) | {**kwargs}).get("mask") is None:
        found = rows + first_row if isinstance(first_row, int) else first_row[rows.to(first_row.device)]
        raise ValueError(f"x: NaN in rows {listed(found.tolist())}; {MISSING.format('entries')}~x.isnan()")


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
