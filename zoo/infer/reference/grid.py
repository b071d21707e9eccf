"""Posteriors of one or two latent dimensions by the trapezoid rule, on a grid of its own for each datum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES
from zoo.infer.reference.checked import MISSED, NotAReference
from zoo.infer.reference.fingerprint import fingerprint
from zoo.infer.reference.log_joint import LogJoint, flatten, unflattened
from zoo.infer.reference.modes import Modes, prior_modes, spread_of
from zoo.infer.reference.reference import Reference
from zoo.infer.sites.programs import batch_rows
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_counts, check_least, check_positive, listed
from zoo.parts.door import entered

__all__ = ["Grid", "grid_reference", "integrate"]

# Nats below the highest density at which the box ends: exp(-25) is about 1e-11, less than the error of the sums.
DEPTH = 25.0
# Widest cell, in standard deviations of the narrowest mode. With a cell of h of them the trapezoid rule misses a
# Gaussian's mass by a share of 2 exp(-2 (pi / h)^2): 3e-4 at 1.5.
WIDEST = 1.5


@torch.no_grad()
def grid_reference(
    model: Callable,
    x: Any,
    *args: Any,
    points: int | None = None,
    tolerance: float = 1e-3,
    max_bytes: int = MAX_BYTES,
    seed: int | None = 0,
    **kwargs: Any,
) -> Reference:
    """The posterior of one or two latent dimensions by the trapezoid rule, on a grid of its own for each datum.

    A constrained latent (positive, bounded, a simplex of three, an angle) is integrated in unconstrained coordinates,
    where its density has the volume of the map; moments and `log_density` are those of the latent itself.

    Ascents from 96 starts around the prior find the modes; the box around them then shrinks and grows until it
    holds every cell within `exp(-25)` of the highest density. For a smooth density that vanishes at the border the
    error falls exponentially in the number of points. The error is measured by leaving out every other point.

    Args:
        model: a Pyro model whose continuous latents have one or two entries for each datum; discrete ones are summed
            out.
        x, *args, **kwargs: the model's arguments.
        points: on each axis, 9 at least, made odd; None: 129 in two dimensions and 1025 in one.
        tolerance: accepted change of log p(x), in nats, when every other point is left out.
        max_bytes: bound on the intermediate results of one piece.
        seed: of the prior draws.

    Raises:
        ValueError: more than two dimensions, fewer than 9 points, a tolerance that is not positive.
        NotAReference: the grid is too coarse for some data, misses mass at its border, or meets NaN.
    """
    if points is not None:
        check_counts(9, points=points)
    check_positive(tolerance=tolerance)
    check_least(1, max_bytes=max_bytes)
    x, args, kwargs = entered((model,), x, args, kwargs)
    with held(model), seeded(seed):
        log_joint = LogJoint(model, x, *args, **kwargs)
        if log_joint.dim > 2:
            raise ValueError(
                f"grid_reference: one or two latent dimensions, the model has {log_joint.dim}; use hmc_reference"
            )
        # Odd, so that every other point leaves both ends in the grid.
        points = (points or (1025 if log_joint.dim == 1 else 129)) // 2 * 2 + 1
        found = integrate(log_joint, points, min(tolerance, MISSED), max_bytes)
    _check_grid(found, points, tolerance)
    # `log_density` keeps only this of the log joint, whose latest positions would else live as long as the reference.
    dtype, joint_posterior = log_joint.dtype, log_joint.joint

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = ((x, *args), kwargs) if joint_posterior else batch_rows(x, args, kwargs, rows)
        with held(model):
            joint = LogJoint(model, *inputs, **named)
            u = joint.unconstrain(unflattened(z.to(dtype), joint.events))
            return (joint.evaluate(u, max_bytes) - joint.log_volume(u)).double() - found.log_evidence[rows]

    return Reference(
        kind="grid",
        joint=log_joint.joint,
        sites=log_joint.events,
        mean=found.mean,
        sd=found.sd,
        mean_error=torch.zeros_like(found.mean),
        log_evidence=found.log_evidence,
        log_density=log_density,
        log_evidence_error=found.halved,
        fingerprint=fingerprint(model, x, *args, **kwargs),
    )


class Grid(NamedTuple):
    """The integral of each datum, `(N,)`, moments of its latents, `(N, d)`, and three measures of its error, `(N,)`.

    Attributes:
        log_evidence: log p(x).
        mean, sd: of the posterior.
        halved: |change of log p(x)| when every other point is left out.
        border: the largest share of the mass on a face of the box.
        coarse: width of a cell in standard deviations of the narrowest mode, over the modes of more than a given mass.
    """

    log_evidence: Tensor
    mean: Tensor
    sd: Tensor
    halved: Tensor
    border: Tensor
    coarse: Tensor


def integrate(log_joint: LogJoint, points: int, share: float, max_bytes: int = MAX_BYTES) -> Grid:
    """Sums p(x, z) of each datum over a grid.

    Args:
        log_joint: of one or two coordinates for each datum.
        points: on each axis, odd.
        share: Laplace mass above which a mode counts for the measure `coarse`.
        max_bytes: bound on the intermediate results of one piece.
    """
    modes = prior_modes(log_joint, max_bytes)
    low, high = _box(log_joint, modes, (points - 1) // 4 * 2 + 1, max_bytes)
    mesh, cell = _mesh(low, high, points)
    values = log_joint.evaluate(mesh, max_bytes).double()
    axes = (points,) * log_joint.dim
    # The sum over all cells. At the border, where the trapezoid rule has half weights, the density vanishes.
    log_evidence = values.logsumexp(0) + cell.log()
    half = values.reshape(*axes, -1)[(slice(None, None, 2),) * log_joint.dim].reshape(-1, values.shape[1])
    halved = half.logsumexp(0) + cell.log() + log_joint.dim * torch.log(torch.tensor(2.0)) - log_evidence
    weights = (values - values.logsumexp(0)).exp()
    border = torch.stack([_border(weights.reshape(*axes, -1), axis) for axis in range(log_joint.dim)]).amax((0, 1))
    # A spike between the points changes neither sum, so that `halved` cannot see it: the cell is held against the
    # width that the ascents found.
    width = modes.precision.diagonal(dim1=-2, dim2=-1).rsqrt()
    coarse = ((high - low) / (points - 1) / width).amax(-1)
    coarse = coarse.where(modes.mass > share, 0.0).amax(0)
    z = flatten(log_joint.constrain(mesh)).double()
    mean = (weights.unsqueeze(-1) * z).sum(0)
    variance = (weights.unsqueeze(-1) * (z - mean) ** 2).sum(0)
    # A face is as thin as a cell: times the points, its weight is a share that does not depend on the grid.
    return Grid(log_evidence, mean, variance.sqrt(), halved.abs(), border * points, coarse)


def _mesh(low: Tensor, high: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Grid of each datum between `low` and `high` `(N, d)`: positions `(points^d, N, d)`, cell volumes `(N,)`."""
    steps = torch.linspace(0.0, 1.0, points, dtype=low.dtype, device=low.device)
    unit = torch.cartesian_prod(*[steps] * low.shape[1]).reshape(-1, 1, low.shape[1])
    return low + unit * (high - low), ((high - low) / (points - 1)).prod(-1).double()


def _border(weights: Tensor, axis: int) -> Tensor:
    """Largest weight on the two faces of an axis: `(2, N)`."""
    faces = weights.movedim(axis, 0)[[0, -1]]
    return faces.reshape(2, -1, faces.shape[-1]).amax(1)


def _box(log_joint: LogJoint, modes: Modes, points: int, max_bytes: int) -> tuple[Tensor, Tensor]:
    """The box of each datum that holds every mode and grid point within `DEPTH` nats of the highest density.

    Args:
        log_joint: of one or two coordinates for each datum.
        modes: modes of the same posteriors.
        points: on each axis, of the coarse grids by which the box is found.
        max_bytes: bound on the intermediate results of one piece.

    Returns:
        Lower and upper corner, `(N, d)` each.
    """
    spread = spread_of(modes.origins)
    near = (modes.value >= modes.value.amax(0) - DEPTH).unsqueeze(-1)
    mode_low = torch.where(near, modes.position, torch.inf).amin(0)
    mode_high = torch.where(near, modes.position, -torch.inf).amax(0)
    low, high = mode_low - 0.5 * spread, mode_high + 0.5 * spread
    for _ in range(20):
        mesh, _ = _mesh(low, high, points)
        values = log_joint.evaluate(mesh, max_bytes)
        # A narrow mode may lie between the points. Its height is known from the ascents, and it stays in the box.
        highest = torch.maximum(values.nan_to_num(nan=-torch.inf).amax(0), modes.value.amax(0))
        inside = (values >= highest - DEPTH).unsqueeze(-1)
        cell = (high - low) / (points - 1)
        leftmost = torch.where(inside, mesh, torch.inf).amin(0).minimum(mode_low)
        rightmost = torch.where(inside, mesh, -torch.inf).amax(0).maximum(mode_high)
        # Where mass touches the border the box grows by half. Elsewhere it ends one cell and a half beyond the last
        # point inside: the density may still be high within the first cell beyond that point.
        touch_low, touch_high = leftmost <= low + 0.5 * cell, rightmost >= high - 0.5 * cell
        new_low = torch.where(touch_low, low - 0.5 * (high - low), leftmost - 1.5 * cell)
        new_high = torch.where(touch_high, high + 0.5 * (high - low), rightmost + 1.5 * cell)
        settled = ((new_high - new_low) / (high - low) - 1).abs().amax() < 0.2
        low, high = new_low, new_high
        if settled:
            break
    return low, high


def _check_grid(found: Grid, points: int, tolerance: float) -> None:
    """Raises `NotAReference` if the grid does not hold the posterior of some data; names the data and the reason."""
    # NaN stands first: the comparisons below are False for it.
    for wrong, verdict, reason, worst, limit in (
        (~found.halved.isfinite(), "meets NaN", "log p(x, z) is no number somewhere: {0:.3g} nats", found.halved, 0.0),
        (
            found.halved > tolerance,
            "is too coarse",
            "leaving out every other point changes log p(x) by {0:.3g} nats (at most {1:g}). Raise points=",
            found.halved,
            tolerance,
        ),
        (
            found.border > tolerance,
            "is too small",
            "{0:.3g} of the mass stands at the border of its box (at most {1:g}): a heavy tail, or a mode that no "
            "ascent found",
            found.border,
            tolerance,
        ),
        (
            found.coarse > WIDEST,
            "is too coarse",
            "a cell is {0:.3g} standard deviations of a narrow mode wide (at most {1:g}). Raise points=",
            found.coarse,
            WIDEST,
        ),
    ):
        if bad := wrong.nonzero().flatten().tolist():
            raise NotAReference(
                f"the grid of {points} points an axis {verdict} for data {listed(bad)} ({len(bad)} of {len(wrong)}): "
                + reason.format(worst[bad].max().item(), limit),
                None,
            )
