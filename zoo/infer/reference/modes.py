"""Modes of many posteriors at once: ascents from many starts, the modes in which they end, and the mass of each mode.

R-hat compares chains with each other; a mode that no chain visited leaves no trace in R-hat. So every reference made
of draws is held against the modes that ascents from many other places find.

A mode's mass is Laplace's, exp(log p(u)) sqrt(det(2 pi H^-1)), in unconstrained coordinates.
"""

from collections.abc import Callable
from itertools import accumulate, cycle, islice
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES
from zoo.infer.reference.lbfgs import HasLogDensity, ascend, finite
from zoo.parts.checks import listed

__all__ = [
    "STARTS",
    "Modes",
    "chain_starts",
    "connected",
    "find_modes",
    "prior_modes",
    "spread_of",
]

# A basin that takes one of ten starts is missed by 64 of them in one of a thousand cases.
STARTS = 64
# Nats by which the log density may fall below the lower of two ends on the straight line between them. A chain passes
# such a dip within a few draws, so that both ends count as one mode.
BARRIER = 2.0
# Points of that line at which the density is evaluated.
POINTS = 31


class Modes(NamedTuple):
    """The modes of N posteriors, R at most, highest first; where a posterior has fewer, `value` is -inf.

    An end that is no peak, as in the neck of a funnel, is no mode: its curvature says nothing of the mass around it.

    Attributes:
        position, value: `(R, N, d)` and the log density there `(R, N)`.
        precision: H of each, `(R, N, d, d)`, made positive definite.
        mass: Laplace mass over that of all modes of the datum, `(R, N)`.
        origins, ends: the position at which each ascent began, and that at which it ended, `(S, N, d)`.
        label: the mode in which each ascent ended, `(S, N)`; -1: its end has no finite log density.
    """

    position: Tensor
    value: Tensor
    precision: Tensor
    mass: Tensor
    origins: Tensor
    ends: Tensor
    label: Tensor

    def nearest(self, u: Tensor) -> Tensor:
        """For positions `(K, N, d)` the mode whose own quadratic log density is the highest there, `(K, N)`."""
        # One mode at a time: the differences to all of them, (R, K, N, d), would be the largest tensor of all.
        scores = []
        for value, position, precision in zip(self.value, self.position, self.precision, strict=True):
            away = u.to(position) - position
            scores.append(value - 0.5 * (torch.einsum("knd,nde->kne", away, precision) * away).sum(-1))
        return torch.stack(scores).argmax(0)

    def starts(self, chains: int, threshold: float) -> tuple[Tensor, Tensor]:
        """Starts for chains, in every heavy mode.

        One start is in each mode above `threshold`, the heaviest first; the others are shared out by mass. Chains in
        one mode start at ends of different ascents. In a posterior without a peak the starts are origins of ascents.

        Args:
            chains: number of starts for each posterior.
            threshold: Laplace mass.

        Returns:
            Positions `(chains, N, d)`, and their modes `(chains, N)`; -1: no mode.
        """
        # Masses sum to 1 where one end at least is a peak, to 0 elsewhere.
        peaked = self.mass.sum(0) > 0.5
        chosen = []
        for mass, label, peak in zip(self.mass.T.tolist(), self.label.T.tolist(), peaked.tolist(), strict=True):
            ends = [[s for s, found in enumerate(label) if found == r] for r in range(len(mass))]
            if peak:
                turns = [cycle(of_mode) for of_mode in ends]
                chosen.append([next(turns[r]) for r in _shared_out(mass, chains, threshold)])
            else:
                chosen.append(list(islice(cycle(s for s, found in enumerate(label) if found >= 0), chains)))
        index = torch.tensor(chosen, device=self.ends.device).T.unsqueeze(-1).expand(-1, -1, self.ends.shape[-1])
        label = self.label.gather(0, index[..., 0]).where(peaked, -1)
        return torch.where(peaked.unsqueeze(-1), self.ends, self.origins).gather(0, index), label


@torch.no_grad()
def chain_starts(density: HasLogDensity, modes: Modes, chains: int, threshold: float) -> Tensor:
    """The starts of `Modes.starts`, each moved by a draw from the Gaussian of its mode, `(chains, N, d)`.

    A start stays where it is if the move would lose more log density than the Gaussian does, by more than `BARRIER`.
    """
    # At the very top the gradient is zero, so that a first leapfrog step says nothing of a good step size; and R-hat
    # needs starts that differ.
    at, label = modes.starts(chains, threshold)
    noise = torch.randn_like(at)
    rows = torch.arange(at.shape[1], device=at.device)
    lower = torch.linalg.cholesky(modes.precision[label.clamp(min=0), rows])
    moved = at + torch.linalg.solve_triangular(lower.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
    lost = density.evaluate(at) - density.evaluate(moved)
    fine = (lost <= 0.5 * (noise**2).sum(-1) + BARRIER) & (label >= 0)
    return torch.where(fine.unsqueeze(-1), moved, at)


def _shared_out(mass: list[float], chains: int, threshold: float) -> list[int]:
    """The mode of each chain: every mode above the threshold once, the heaviest first, then by mass."""
    # The remaining chains take the quantiles (i + 1/2) / rest of the masses: no noise, each share right to one chain.
    order = sorted(range(len(mass)), key=lambda r: -mass[r])
    places = [r for r in order if mass[r] > threshold][:chains]
    rest = chains - len(places)
    below = list(accumulate(mass[r] for r in order))
    return places + [next(r for r, b in zip(order, below, strict=True) if b >= (i + 0.5) / rest) for i in range(rest)]


def prior_modes(density: HasLogDensity, max_bytes: int = MAX_BYTES) -> Modes:
    """The modes of ascents from `STARTS` draws of the prior, and from half as many twice as far from the median.

    Args:
        density: of the posteriors.
        max_bytes: bound on the intermediate results of one piece.

    Raises:
        ValueError: the log density of some data is finite at no draw; names their rows.
    """
    # The wide starts stand where the prior seldom draws. A basin of 7 % of the prior, in which 5 % of a posterior may
    # well lie, is missed by 64 draws in one of a hundred cases, with the wide starts in one of 400,000.
    u = density.prior(STARTS + STARTS // 2)
    spread = spread_of(u)
    u[STARTS:] = 2 * u[STARTS:] - u[:STARTS].median(0).values
    modes = find_modes(density, u, spread, max_bytes)
    lost = (modes.label.amax(0) < 0).nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"log p(x, z) is not finite at draws from the prior, in rows {listed(lost)}")
    return modes


def spread_of(u: Tensor) -> Tensor:
    """A scale for each coordinate of draws `(S, N, d)`: 1.48 times the median absolute deviation, `(d,)`."""
    # For a Gaussian that is the standard deviation, but a heavy tail does not move it.
    flat = u.flatten(0, 1)
    spread = 1.48 * (flat - flat.median(0).values).abs().median(0).values
    return torch.where((spread > 0) & spread.isfinite(), spread, 1.0)


def find_modes(density: HasLogDensity, starts: Tensor, spread: Tensor, max_bytes: int = MAX_BYTES) -> Modes:
    """Finds the modes in which ascents from `starts` end.

    Args:
        density: of the posteriors.
        starts: positions `(S, N, d)`.
        spread: scale of each coordinate, `(d,)` or `(N, d)`, such as the prior's standard deviations; the longest step.
        max_bytes: bound on the intermediate results of one piece.
    """
    ends, values = ascend(density, starts, spread, max_bytes)
    # Two passes. Ends next to each other make heaps, which costs nothing; only the tops of the heaps are then joined by
    # straight lines, which cost 31 densities each.
    heaps, of_heap = _gathered(ends, values, lambda top, value, _: _near(ends, values, top, value, spread))
    tops, heights = heaps
    found, of_mode = _gathered(
        tops,
        heights,
        lambda top, value, asked: connected(density, tops, heights, top, value, asked, spread, max_bytes),
    )
    label = torch.where(of_heap < 0, -1, of_mode.gather(0, of_heap.clamp(min=0)))
    position, value = found
    precision, decrement = _curvature(density, position, spread, max_bytes)
    # Newton's decrement is twice the gain that a quadratic still promises: from 1 on the end is no peak.
    value = value.where(decrement < 1.0, -torch.inf)
    log_mass = value.double() - 0.5 * torch.linalg.slogdet(precision.double()).logabsdet
    return Modes(position, value, precision, log_mass.softmax(0).nan_to_num(0.0), starts, ends, label)


def _gathered(
    u: Tensor, values: Tensor, joined: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Groups positions `(S, N, d)`: the highest of those left over takes all that are joined to it, until none is left.

    Args:
        u, values: positions and their log densities `(S, N)`.
        joined: top `(N, d)`, its value `(N,)`, and the positions in question `(S, N)` -> those joined to the top.

    Returns:
        The highest position of each group with its value, `(R, N, d)` and `(R, N)`; and each position's group,
        `(S, N)`, -1 where its value is -inf.
    """
    label = torch.where(values > -torch.inf, -2, -1)  # -2: in no group yet
    found: list[tuple[Tensor, Tensor]] = []
    while (label == -2).any() or not found:
        left = label == -2
        value, best = values.where(left, -torch.inf).max(0)
        top = u.gather(0, best.expand(1, -1).unsqueeze(-1).expand(1, -1, u.shape[-1]))[0]
        itself = torch.zeros_like(left).scatter(0, best.unsqueeze(0), True)
        label = torch.where(left & (itself | joined(top, value, left)), len(found), label)
        found.append((top, value))
    return (torch.stack([top for top, _ in found]), torch.stack([value for _, value in found])), label


def _near(ends: Tensor, values: Tensor, top: Tensor, value: Tensor, spread: Tensor) -> Tensor:
    """Tells which ends are at the top up to the accuracy of an ascent: a hundredth of the spread and 0.1 nats."""
    return ((ends - top).abs() <= 1e-2 * spread).all(-1) & ((value - values).abs() <= 0.1)


def connected(
    density: HasLogDensity,
    ends: Tensor,
    values: Tensor,
    top: Tensor,
    value: Tensor,
    asked: Tensor,
    spread: Tensor,
    max_bytes: int,
) -> Tensor:
    """Tells which ends belong to the mode at `top`: no barrier stands on the straight line between.

    Args:
        density: of the posteriors.
        ends, values: positions `(S, N, d)` and their log densities `(S, N)`.
        top, value: `(N, d)` and `(N,)`.
        asked: the ends in question, `(S, N)`. For other ends the answer is True only next to the top.
        spread: scale of each coordinate, `(d,)` or `(N, d)`.
        max_bytes: bound on the intermediate results of one piece.
    """
    near = _near(ends, values, top, value, spread)
    far = asked & ~near
    most = int(far.sum(0).max())
    if most == 0:
        return near
    # The data have different numbers of far ends. Sorted to the front, the far ends of each fit one tensor.
    rows = far.to(torch.int8).argsort(dim=0, descending=True, stable=True)[:most]
    chosen = ends.gather(0, rows.unsqueeze(-1).expand(-1, -1, ends.shape[-1]))
    steps = torch.linspace(0.0, 1.0, POINTS + 2, dtype=top.dtype, device=top.device)[1:-1].reshape(-1, 1, 1, 1)
    between = (top + steps * (chosen - top)).flatten(0, 1)
    lowest = density.evaluate(between, max_bytes).nan_to_num(nan=-torch.inf).reshape(POINTS, *rows.shape).amin(0)
    passes = lowest >= torch.minimum(values.gather(0, rows), value) - BARRIER
    return near | torch.zeros_like(near).scatter(0, rows, passes)


def _curvature(density: HasLogDensity, u: Tensor, spread: Tensor, max_bytes: int) -> tuple[Tensor, Tensor]:
    """H = -d^2 log p / du^2 at u `(R, N, d)`, no direction wider than twice its spread, and g' H^-1 g `(R, N)`.

    Args:
        density: of the posteriors.
        u: positions, `(R, N, d)`.
        spread: scale of each coordinate, `(d,)` or `(N, d)`.
        max_bytes: bound on the intermediate results of one piece.

    Returns:
        H, `(R, N, d, d)`, and Newton's decrement, with the gradient g, `(R, N)`.
    """
    # Differences of gradients, not second derivatives: the second derivatives of a ReLU decoder are zero where its
    # density is curved, and Kalman recursions and fused networks have none. The first round finds the width of each
    # coordinate, the second takes differences over a quarter of that width: mass depends on the width, not on the top.
    spread = spread.expand(u.shape)
    step = 1e-3 * spread
    for _ in range(2):
        shift = torch.diag_embed(step).movedim(-1, 0)  # (d, R, N, d)
        around = torch.stack([u + shift, u - shift])
        up, down = finite(*density.gradient(around.flatten(0, 2), max_bytes))[1].reshape(around.shape)
        precision = (down - up).movedim(0, -1) / (2 * step).unsqueeze(-2)
        step = 0.25 / precision.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt().clamp(min=1 / spread)
    # The gradient as the mean over the same points: 0 at a peak with an edge, too, as that of a Laplace density.
    slope = 0.5 * (up + down).diagonal(dim1=0, dim2=-1) * spread
    precision = spread.unsqueeze(-1) * (0.5 * (precision + precision.mT)) * spread.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(precision.double())
    # In units of the spread, 1/4 is the precision of a direction that is twice as wide. A flat or rising direction, as
    # along a ridge, gets it.
    values = values.clamp(min=0.25)
    decrement = ((vectors.mT @ slope.double().unsqueeze(-1)).squeeze(-1) ** 2 / values).sum(-1)
    precision = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return precision.to(u) / spread.unsqueeze(-1) / spread.unsqueeze(-2), decrement
