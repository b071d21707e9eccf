"""Posteriors of one or two real latent dimensions by the trapezoid rule, on a grid of its own for each datum."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import Modes, prior_modes, spread_of

__all__ = ["Grid", "integrate"]


class Grid(NamedTuple):
    """The integral of each datum, `(N,)`, its moments `(N, d)`, and how good it is.

    Attributes:
        log_evidence: log p(x).
        mean, sd: of the posterior.
        halved: |change of log p(x)| when every other point is left out.
        border: the largest share of the mass on a face of the box.
        coarse: cell over the width of the narrowest mode that matters, in its standard deviations.
    """

    log_evidence: Tensor
    mean: Tensor
    sd: Tensor
    halved: Tensor
    border: Tensor
    coarse: Tensor


def integrate(log_joint: LogJoint, points: int, share: float, max_bytes: int = MAX_BYTES) -> Grid:
    """Integrates over `points` (odd) an axis; a mode of a Laplace mass above `share` matters.

    The box holds every cell within `exp(-25)` of the highest density.
    """
    modes = prior_modes(log_joint, max_bytes)
    low, high = _box(log_joint, modes, (points - 1) // 4 * 2 + 1, max_bytes)
    mesh, cell = _mesh(low, high, points)
    values = log_joint.evaluate(mesh, max_bytes).double()
    axes = (points,) * log_joint.dim
    log_evidence = values.logsumexp(0) + cell.log()
    half = values.reshape(*axes, -1)[(slice(None, None, 2),) * log_joint.dim].reshape(-1, values.shape[1])
    halved = half.logsumexp(0) + cell.log() + log_joint.dim * torch.log(torch.tensor(2.0)) - log_evidence
    weights = (values - values.logsumexp(0)).exp()
    border = torch.stack([_border(weights.reshape(*axes, -1), axis) for axis in range(log_joint.dim)]).amax((0, 1))
    width = modes.precision.diagonal(dim1=-2, dim2=-1).rsqrt()
    coarse = ((high - low) / (points - 1) / width).amax(-1)
    coarse = coarse.where(modes.mass > share, 0.0).amax(0)
    mean = (weights.unsqueeze(-1) * mesh).sum(0)
    variance = (weights.unsqueeze(-1) * (mesh - mean) ** 2).sum(0)
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


def _box(log_joint: LogJoint, modes: Modes, points: int, max_bytes: int, depth: float = 25.0) -> tuple[Tensor, Tensor]:
    """For each datum the box that holds every mode and grid point within `depth` nats of the highest density."""
    spread = spread_of(modes.origins)
    near = (modes.value >= modes.value.amax(0) - depth).unsqueeze(-1)
    mode_low = torch.where(near, modes.position, torch.inf).amin(0)
    mode_high = torch.where(near, modes.position, -torch.inf).amax(0)
    low, high = mode_low - 0.5 * spread, mode_high + 0.5 * spread
    for _ in range(20):
        mesh, _ = _mesh(low, high, points)
        values = log_joint.evaluate(mesh, max_bytes)
        # a narrow mode may lie between the points: it is the height that counts, and stays in the box
        highest = torch.maximum(values.nan_to_num(nan=-torch.inf).amax(0), modes.value.amax(0))
        inside = (values >= highest - depth).unsqueeze(-1)
        cell = (high - low) / (points - 1)
        # one cell and a half beyond the last point inside: grows where mass touches the border, shrinks elsewhere
        first = torch.where(inside, mesh, torch.inf).amin(0).minimum(mode_low)
        last = torch.where(inside, mesh, -torch.inf).amax(0).maximum(mode_high)
        touch_low, touch_high = first <= low + 0.5 * cell, last >= high - 0.5 * cell
        new_low = torch.where(touch_low, low - 0.5 * (high - low), first - 1.5 * cell)
        new_high = torch.where(touch_high, high + 0.5 * (high - low), last + 1.5 * cell)
        settled = ((new_high - new_low) / (high - low) - 1).abs().amax() < 0.2
        low, high = new_low, new_high
        if settled:
            break
    return low, high
