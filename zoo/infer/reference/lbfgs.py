"""L-BFGS from many starts at once, up the log densities of many posteriors.

References: Nocedal and Wright 2006, algorithms 7.4 and 7.5.
"""

from typing import Protocol

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES

__all__ = ["HasLogDensity", "ascend", "finite"]


class HasLogDensity(Protocol):
    """Log densities of N posteriors at positions `(K, N, d)`, d unconstrained coordinates each.

    `LogJoint` is one, and `Potential` of nuts.py, with N = 1.
    """

    def prior(self, chains: int) -> Tensor:
        """Draws from the prior, `(chains, N, d)`."""

    def gradient(self, u: Tensor, max_bytes: int = ...) -> tuple[Tensor, Tensor]:
        """Value `(K, N)` and gradient `(K, N, d)`."""

    def evaluate(self, u: Tensor, max_bytes: int = ...) -> Tensor:
        """Value `(K, N)`."""

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Site -> values `(K, N, *event)`."""


@torch.no_grad()
def ascend(
    density: HasLogDensity, u: Tensor, spread: Tensor, max_bytes: int = MAX_BYTES, steps: int = 300, memory: int = 8
) -> tuple[Tensor, Tensor]:
    """Climbs the log densities from every start by L-BFGS, all ascents at once.

    torch's and scipy's L-BFGS take one problem at a time. Here a step that does not gain enough is cut and tried again
    in the next round, while the others go on, so that a round is one gradient for all.

    Args:
        density: of the posteriors.
        u: starts, `(S, N, d)`.
        spread: scale of each coordinate, `(d,)` or `(N, d)`; the longest step.
        max_bytes: bound on the intermediate results of one piece.
        steps, memory: most rounds, and number of pairs (move, change of gradient) that each ascent keeps.

    Returns:
        Ends `(S, N, d)` and values `(S, N)`, -inf where not finite.
    """
    scale = spread.clamp(min=torch.finfo(u.dtype).tiny)
    value, gradient = finite(*density.gradient(u, max_bytes))
    gradient = gradient * scale
    # Each ascent keeps its own last pairs, since others may have made no step in a round.
    moves, changes = u.new_zeros(2, memory, *u.shape)
    weights = u.new_zeros(memory, *u.shape[:-1], 1)
    gamma = gradient.norm(dim=-1, keepdim=True).clamp(min=1.0).reciprocal()
    length, alive = torch.ones_like(value), value > -torch.inf
    small = torch.zeros_like(value, dtype=torch.long)
    for _ in range(steps):
        direction = _direction(gradient, moves, changes, weights, gamma)
        direction = direction / direction.abs().amax(-1, keepdim=True).clamp(min=1.0)
        slope = (direction * gradient).sum(-1)
        # An ascent ends when five steps in a row promised less than a millionth of a nat, for a single step may know
        # nothing yet of a ridge; and when the promise is less than rounding.
        rounding = 16 * torch.finfo(value.dtype).eps * value.abs()
        small = torch.where(slope > 1e-6, 0, small + 1)
        alive = alive & (slope * length > rounding.clamp(min=1e-12)) & (small < 5) & (length > 1e-6)
        rows = alive.any(1).nonzero().flatten()
        if not len(rows):
            break
        move = (length.unsqueeze(-1) * direction).to(u)
        new_value, new_gradient = value.clone(), gradient.clone()
        there, slopes = finite(*density.gradient(u[rows] + move[rows] * scale, max_bytes))
        new_value[rows], new_gradient[rows] = there, slopes * scale
        # Armijo's rule: a step counts if it gains a ten-thousandth of the promise.
        taken = alive & (new_value >= value + 1e-4 * length * slope)
        change = torch.where(taken.unsqueeze(-1), gradient - new_gradient, 0.0)
        move = torch.where(taken.unsqueeze(-1), move, 0.0)
        along, square = (move * change).sum(-1, keepdim=True), (change**2).sum(-1, keepdim=True)
        # Only a pair along which the gradient falls keeps the approximation of H positive definite.
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
    """The two loops of L-BFGS, `(S, N, d)`; a pair that is not there yet has weight 0."""
    direction, shares = gradient, []
    for move, change, weight in zip(moves.flip(0), changes.flip(0), weights.flip(0), strict=True):
        shares.append(weight * (move * direction).sum(-1, keepdim=True))
        direction = direction - shares[-1] * change
    direction = gamma * direction
    for move, change, weight, share in zip(moves, changes, weights, reversed(shares), strict=True):
        direction = direction + move * (share - weight * (change * direction).sum(-1, keepdim=True))
    return direction


def finite(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient, with -inf and 0 where either is not finite: no step goes there."""
    fine = value.isfinite() & gradient.isfinite().all(-1)
    return value.where(fine, -torch.inf), gradient.where(fine.unsqueeze(-1), 0.0)
