"""Modes of many posteriors at once: ascents from many starts, what they found, and how much mass stands there.

R-hat compares chains with each other; a mode in which no chain ever was leaves no trace in it. So every reference made
of draws is held against the modes that ascents from 64 other places find.

A mode's mass is Laplace's, exp(log p(u)) sqrt(det(2 pi H^-1)), in unconstrained coordinates. H comes from differences
of gradients over a quarter of a standard deviation, not from second derivatives: those of a ReLU decoder are zero
where its density is curved, and Kalman recursions and fused networks have none.
"""

from collections.abc import Callable
from itertools import accumulate, cycle, islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES

__all__ = [
    "STARTS",
    "Density",
    "Modes",
    "ascend",
    "chain_starts",
    "connected",
    "find_modes",
    "prior_modes",
    "spread_of",
]

STARTS = 64  # a basin that takes one of ten starts is missed in one of a thousand cases
BARRIER = 2.0  # nats below the lower of two ends, on the straight way between them: below it, chains pass
POINTS = 31  # at which that way is looked at


class Density(Protocol):
    """Log densities of N posteriors at positions `(K, N, d)`, d unconstrained coordinates each."""

    def prior(self, chains: int) -> Tensor: ...

    def gradient(self, u: Tensor, max_bytes: int = ...) -> tuple[Tensor, Tensor]: ...

    def evaluate(self, u: Tensor, max_bytes: int = ...) -> Tensor: ...

    def constrain(self, u: Tensor) -> dict[str, Tensor]: ...


class Modes(NamedTuple):
    """The modes of N posteriors, R at most, highest first; where a posterior has fewer, `value` is -inf.

    An end that is no peak, as in the neck of a funnel, is not counted: its curvature says nothing of its mass.

    Attributes:
        position, value: `(R, N, d)` and the log density there `(R, N)`.
        precision: H of each, `(R, N, d, d)`, made positive definite.
        mass: Laplace mass over that of all modes of the datum, `(R, N)`.
        origins, ends, label: where the ascents began and ended, `(S, N, d)`, and in which mode, `(S, N)`; -1: nowhere
            finite.
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
        scores = []
        for value, position, precision in zip(self.value, self.position, self.precision, strict=True):
            away = u.to(position) - position
            scores.append(value - 0.5 * (torch.einsum("knd,nde->kne", away, precision) * away).sum(-1))
        return torch.stack(scores).argmax(0)

    def starts(self, chains: int, threshold: float) -> tuple[Tensor, Tensor]:
        """Ends for chains to start at, `(chains, N, d)`, and their modes, `(chains, N)`; -1: no mode.

        One is in each mode above `threshold`, the rest go by mass. Heavy modes come first; chains in one mode start at
        ends of different ascents. Of a posterior without a peak they start where ascents began.
        """
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
def chain_starts(density: Density, modes: Modes, chains: int, threshold: float) -> Tensor:
    """`Modes.starts`, each moved by a draw from the Gaussian of its mode, `(chains, N, d)`.

    At the very top a sampler's first step says nothing of the step size, and equal starts nothing to R-hat. A move that
    loses more than the Gaussian by `BARRIER` is not made.
    """
    at, label = modes.starts(chains, threshold)
    noise = torch.randn_like(at)
    rows = torch.arange(at.shape[1], device=at.device)
    lower = torch.linalg.cholesky(modes.precision[label.clamp(min=0), rows])
    moved = at + torch.linalg.solve_triangular(lower.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
    lost = density.evaluate(at) - density.evaluate(moved)
    fine = (lost <= 0.5 * (noise**2).sum(-1) + BARRIER) & (label >= 0)
    return torch.where(fine.unsqueeze(-1), moved, at)


def _shared_out(mass: list[float], chains: int, threshold: float) -> list[int]:
    """A mode for each chain: those above the threshold once, the heaviest first, then by mass."""
    order = sorted(range(len(mass)), key=lambda r: -mass[r])
    places = [r for r in order if mass[r] > threshold][:chains]
    rest = chains - len(places)
    below = list(accumulate(mass[r] for r in order))
    return places + [next(r for r, b in zip(order, below, strict=True) if b >= (i + 0.5) / rest) for i in range(rest)]


def prior_modes(density: Density, max_bytes: int = MAX_BYTES) -> Modes:
    """The modes that ascents from `STARTS` draws of the prior end in, and from half as many drawn twice as wide.

    The wide ones look where the prior seldom draws: a basin of 7 % of the prior, in which 5 % of a posterior may well
    stand, is missed by 64 draws in one of a hundred cases, with them in one of 400,000.

    Raises:
        ValueError: the log density of some data is finite at no draw; names their rows.
    """
    u = density.prior(STARTS + STARTS // 2)
    spread = spread_of(u)
    u[STARTS:] = 2 * u[STARTS:] - u[:STARTS].median(0).values
    modes = find_modes(density, u, spread, max_bytes)
    lost = (modes.label.amax(0) < 0).nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"log p(x, z) is not finite at draws from the prior, in rows {lost[:10]} ({len(lost)} in all)")
    return modes


def spread_of(u: Tensor) -> Tensor:
    """A scale for each coordinate of draws `(S, N, d)`: median deviation, which a heavy tail does not move."""
    flat = u.flatten(0, 1)
    spread = 1.48 * (flat - flat.median(0).values).abs().median(0).values
    return torch.where((spread > 0) & spread.isfinite(), spread, 1.0)


def find_modes(density: Density, starts: Tensor, spread: Tensor, max_bytes: int = MAX_BYTES) -> Modes:
    """Ascents from `starts` `(S, N, d)` and the modes that they end in.

    Args:
        density: of the posteriors.
        starts: `(S, N, d)`.
        spread: scale of each coordinate, `(d,)` or `(N, d)`, such as the prior's standard deviations: the longest step.
        max_bytes: bound on the intermediate results of one piece.
    """
    ends, values = ascend(density, starts, spread, max_bytes)
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
    value = value.where(decrement < 1.0, -torch.inf)
    log_mass = value.double() - 0.5 * torch.linalg.slogdet(precision.double()).logabsdet
    return Modes(position, value, precision, log_mass.softmax(0).nan_to_num(0.0), starts, ends, label)


@torch.no_grad()
def ascend(
    density: Density, u: Tensor, spread: Tensor, max_bytes: int = MAX_BYTES, steps: int = 300, memory: int = 8
) -> tuple[Tensor, Tensor]:
    """L-BFGS from each start on its own, all at once: ends `(S, N, d)` and values `(S, N)`, -inf where not finite.

    torch's and scipy's take one problem at a time. Here a step that does not gain enough is cut and tried again in the
    next round, while the others go on, so that a round is one gradient for all. An ascent is over when five steps in a
    row promised less than a millionth of a nat (one may know nothing yet of a ridge), or rounding leaves nothing.
    """
    scale = spread.clamp(min=torch.finfo(u.dtype).tiny)
    value, gradient = _finite(*density.gradient(u, max_bytes))
    gradient = gradient * scale
    moves, changes = u.new_zeros(2, memory, *u.shape)  # of each ascent its own last ones
    weights = u.new_zeros(memory, *u.shape[:-1], 1)
    gamma = gradient.norm(dim=-1, keepdim=True).clamp(min=1.0).reciprocal()
    length, alive = torch.ones_like(value), value > -torch.inf
    small = torch.zeros_like(value, dtype=torch.long)
    for _ in range(steps):
        direction = _direction(gradient, moves, changes, weights, gamma)
        direction = direction / direction.abs().amax(-1, keepdim=True).clamp(min=1.0)
        slope = (direction * gradient).sum(-1)
        rounding = 16 * torch.finfo(value.dtype).eps * value.abs()
        small = torch.where(slope > 1e-6, 0, small + 1)
        alive = alive & (slope * length > rounding.clamp(min=1e-12)) & (small < 5) & (length > 1e-6)
        rows = alive.any(1).nonzero().flatten()
        if not len(rows):
            break
        move = (length.unsqueeze(-1) * direction).to(u)
        new_value, new_gradient = value.clone(), gradient.clone()
        there, slopes = _finite(*density.gradient(u[rows] + move[rows] * scale, max_bytes))
        new_value[rows], new_gradient[rows] = there, slopes * scale
        taken = alive & (new_value >= value + 1e-4 * length * slope)
        change = torch.where(taken.unsqueeze(-1), gradient - new_gradient, 0.0)
        move = torch.where(taken.unsqueeze(-1), move, 0.0)
        along, square = (move * change).sum(-1, keepdim=True), (change**2).sum(-1, keepdim=True)
        good = along > 1e-10 * square
        moves = torch.where(good, torch.cat([moves[1:], move.unsqueeze(0)]), moves)
        changes = torch.where(good, torch.cat([changes[1:], change.unsqueeze(0)]), changes)
        weights = torch.where(good, torch.cat([weights[1:], 1 / along.unsqueeze(0)]), weights)
        gamma = torch.where(good, along / square, gamma)
        u = u + move * scale
        value = torch.where(taken, new_value, value)
        gradient = torch.where(taken.unsqueeze(-1), new_gradient, gradient)
        length = torch.where(taken, (4 * length).clamp(max=1.0), length / 4)
    return u, value


def _direction(gradient: Tensor, moves: Tensor, changes: Tensor, weights: Tensor, gamma: Tensor) -> Tensor:
    """The two loops of L-BFGS; a pair that is not there yet has weight 0."""
    direction, firsts = gradient, []
    for move, change, weight in zip(moves.flip(0), changes.flip(0), weights.flip(0), strict=True):
        firsts.append(weight * (move * direction).sum(-1, keepdim=True))
        direction = direction - firsts[-1] * change
    direction = gamma * direction
    for move, change, weight, first in zip(moves, changes, weights, reversed(firsts), strict=True):
        direction = direction + move * (first - weight * (change * direction).sum(-1, keepdim=True))
    return direction


def _finite(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Positions without a finite value or gradient count as -inf, which no step goes to."""
    fine = value.isfinite() & gradient.isfinite().all(-1)
    return value.where(fine, -torch.inf), gradient.where(fine.unsqueeze(-1), 0.0)


def _gathered(
    u: Tensor, values: Tensor, joined: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Groups positions `(S, N, d)`: the highest that is left over takes those `joined` to it, again and again.

    Returns the highest of each group with its value, `(R, N, d)` and `(R, N)`, and each position's group, `(S, N)`; -1
    where its value is -inf.
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
    return ((ends - top).abs() <= 1e-2 * spread).all(-1) & ((value - values).abs() <= 0.1)


def connected(
    density: Density,
    ends: Tensor,
    values: Tensor,
    top: Tensor,
    value: Tensor,
    asked: Tensor,
    spread: Tensor,
    max_bytes: int,
) -> Tensor:
    """Tells which of the ends asked for belong to the mode at `top`: no barrier stands on the straight way there."""
    near = _near(ends, values, top, value, spread)
    far = asked & ~near
    most = int(far.sum(0).max())
    if most == 0:
        return near
    rows = far.to(torch.int8).argsort(dim=0, descending=True, stable=True)[:most]  # of each datum those that are far
    chosen = ends.gather(0, rows.unsqueeze(-1).expand(-1, -1, ends.shape[-1]))
    steps = torch.linspace(0.0, 1.0, POINTS + 2, dtype=top.dtype, device=top.device)[1:-1].reshape(-1, 1, 1, 1)
    between = (top + steps * (chosen - top)).flatten(0, 1)
    lowest = density.evaluate(between, max_bytes).nan_to_num(nan=-torch.inf).reshape(POINTS, *rows.shape).amin(0)
    passes = lowest >= torch.minimum(values.gather(0, rows), value) - BARRIER
    return near | torch.zeros_like(near).scatter(0, rows, passes)


def _curvature(density: Density, u: Tensor, spread: Tensor, max_bytes: int) -> tuple[Tensor, Tensor]:
    """H = -d^2 log p / du^2 at `(R, N, d)`, no direction wider than twice its spread, and g' H^-1 g `(R, N)`.

    g is the gradient, taken as the mean over the same points as the differences: 0 at a peak with an edge, too.
    """
    spread = spread.expand(u.shape)
    step = 1e-3 * spread
    for _ in range(2):
        shift = torch.diag_embed(step).movedim(-1, 0)  # (d, R, N, d)
        around = torch.stack([u + shift, u - shift])
        up, down = _finite(*density.gradient(around.flatten(0, 2), max_bytes))[1].reshape(around.shape)
        precision = (down - up).movedim(0, -1) / (2 * step).unsqueeze(-2)
        step = 0.25 / precision.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt().clamp(min=1 / spread)
    slope = 0.5 * (up + down).diagonal(dim1=0, dim2=-1) * spread
    precision = spread.unsqueeze(-1) * (0.5 * (precision + precision.mT)) * spread.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(precision.double())
    values = values.clamp(min=0.25)
    decrement = ((vectors.mT @ slope.double().unsqueeze(-1)).squeeze(-1) ** 2 / values).sum(-1)
    precision = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return precision.to(u) / spread.unsqueeze(-1) / spread.unsqueeze(-2), decrement
