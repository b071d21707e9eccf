"""Maximisation of log p: L-BFGS, Newton's steps, and trials of coordinates whose constraint hides a gain."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.parts.surface import Surface

#: nats: the least gain for which a coordinate at its bound is moved, or another start's maximum is preferred
GAIN = 1e-4
#: largest number of coordinates of which `_inwards` tries every one; of more it tries only those under a constraint
MOST = 100
#: values tried for a coordinate on which the loss hardly depends: decades of a variance, far values of other maps
_GRID = [2.302585 * k for k in range(-20, 21)] + [s * 10.0**k for k in range(2, 9) for s in (-1, 1)]


def climb(
    module: nn.Module,
    value: Callable[[], Tensor],
    *,
    count: int = 1,
    rounds: int = 20,
    restarts: int = 0,
    tolerance: float | None = None,
) -> None:
    """Moves the parameters of the module that require a gradient to a maximum of `value()`.

    Three engines take turns until none of them gains.

    1. L-BFGS compares values, so it stops where values no longer differ: at parameters that are right to half of their
       digits, and earlier where its line search fails at the last bits.
    2. Newton's steps on the gradient find the other digits. They stay in the span that Lanczos' method builds from the
       gradient. Directions that nothing depends on (a change of basis of the states) do not occur in that span, nor do
       directions that lead out of the symmetric matrices. A direction of positive curvature leads away from a saddle.
    3. Trials of single coordinates. A coordinate is unconstrained, such as the logarithm of a variance, and near the
       bound of the constraint its derivative vanishes: a gradient of zero does not tell a maximum there. The maximum
       lies on the bound only if log p falls from the bound inwards (Karush, Kuhn and Tucker's condition). So each
       coordinate whose change by 1 (a variance's by a factor of e) changes log p by no more than 0.01 nats is tried
       over all decades, and moves if it gains `GAIN` nats. A derivative would not tell: it has a unit, and it vanishes
       by a standard deviation at its bound, and where the caller's own map is flat (a^2 near 0, exp(a) far below).

    Args:
        value: returns the scalar to be maximised, a function of the parameters; of order 1, such as log p divided by
            the number of observations.
        count: factor that makes nats of `value()`, such as the number of observations.
        rounds: largest number of turns of the engines.
        restarts: number of further starts, at scales that suit the data; the highest maximum is kept.
        tolerance: largest entry of the gradient at a maximum; by default 1e-6 in float64, 1e-3 in float32. A gradient
            that promises less than 1e-6 nats in all passes too.

    Raises:
        ValueError: nothing requires a gradient; the start is not finite, or `value` refuses it.
        RuntimeError: no start led to a maximum; names the parameter with the largest derivative. The module then holds
            the best parameters seen.
    """
    surface = Surface(module, value)
    start = surface.entries()
    value()  # raises an error of the start; later the surface takes such an error for a loss of infinity
    if tolerance is None:
        tolerance = 1e-6 if surface.resolution < 1e-12 else 1e-3
    starts = [start, *_starts(surface, start, count, restarts)]
    ends = [_climb_from(surface, entries, count, rounds, tolerance) for entries in starts]
    settled = [end for end in ends if end.settled]
    best = min(settled or ends, key=lambda end: end.loss)
    if settled and count * (settled[0].loss - best.loss) < GAIN:
        best = settled[0]  # the same maximum to rounding: the caller gets the one that its own start leads to
    surface.write(best.entries)
    if not best.settled:
        surface.units()
        raise RuntimeError(surface.explain(surface.gradient(surface.at)[1], count))


class _End(NamedTuple):
    """The end of a climb: the loss, the entries of the parameters, and True if these are a maximum."""

    loss: float
    entries: Tensor
    settled: bool


class _Point(NamedTuple):
    """Coordinates, with loss and gradient."""

    at: Tensor
    loss: float
    gradient: Tensor


def _climb_from(surface: Surface, start: Tensor, count: int, rounds: int, limit: float) -> _End:
    """Runs all engines in turn from one start, the entries of the parameters."""
    surface.write(start)
    settled = False
    for _ in range(rounds):
        surface.units()  # the unit of a coordinate follows the present size of its parameter
        before = surface.loss(surface.at)
        at = _quasi_newton(surface, surface.at)
        point, settled, saddle = _newton(surface, _Point(at, *surface.gradient(at)), count, limit)
        at, moved = (point.at, False) if saddle is None else _off_saddle(surface, point, saddle, count)
        if not moved:
            at, moved = _inwards(surface, point, count)
        surface.place(at)
        if not moved and (settled or not point.loss < before - 1e-13 * (1 + abs(before))):
            break
        settled = settled and not moved
    return _End(surface.loss(at), surface.entries(), settled)


def _quasi_newton(surface: Surface, start: Tensor, rounds: int = 10) -> Tensor:
    """The best coordinates that L-BFGS sees from the start on, run 50 steps at a time for as long as it gains."""
    best, lowest = start, torch.inf
    vector = start.clone().requires_grad_()

    def closure() -> float:
        nonlocal best, lowest
        loss, vector.grad = surface.gradient(vector.detach())
        if loss < lowest:
            best, lowest = vector.detach().clone(), loss
        # where the line search meets parameters of no model, an infinity would make its interpolation NaN; a high
        # finite loss turns it back
        return loss if loss < torch.inf else lowest + 10 * (1 + abs(lowest))

    for _ in range(rounds):
        before = lowest
        optimizer = torch.optim.LBFGS(
            [vector], max_iter=50, history_size=20, tolerance_grad=0.0, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimizer.step(closure)
        # a new optimiser from the best place: curvature pairs of steps that met no model mislead the next direction
        with torch.no_grad():
            vector.copy_(best)
        if not lowest < before - 1e-7 * (1 + abs(lowest)):
            break
    return best


def _newton(
    surface: Surface, point: _Point, count: int, limit: float, steps: int = 15
) -> tuple[_Point, bool, Tensor | None]:
    """Newton's steps.

    Returns:
        The end; True if the end is stationary; a direction in which the loss is concave there, or None.
    """
    settled, saddle, stale = False, None, 0
    for _ in range(steps):
        basis, values, vectors = _curvature(surface, point)
        if not len(basis):
            break
        inside = vectors.mT @ (basis @ point.gradient)
        # a direction is flat if its curvature is no more than the error of the differences (of the order of
        # resolution^(2/3), with the step of `Surface.bend`), or less than 1e-6 nats for a step of 1
        least = max(10 * surface.resolution ** (2 / 3) * values.abs().max().item(), 1e-6 / count)
        flat = values.abs() <= least
        step = torch.where(flat, 0.0, inside / torch.where(flat, 1.0, values.abs()))
        outside = point.gradient - basis.mT @ (basis @ point.gradient)
        # promised: the gain of the step in nats by the quadratic model. idle: the gradient that no step can remove,
        # along flat directions and outside of the basis
        promised = 0.5 * count * (inside * step).sum().item()
        idle = max(outside.abs().max().item(), torch.where(flat, inside, 0.0).abs().max().item())
        settled = point.gradient.abs().max().item() <= limit or (promised <= 1e-6 and idle <= limit)
        saddle = basis.mT @ vectors[:, 0] if values[0] < -max(least, 1e-3 / count) else None
        new = _shortened(surface, point, -basis.mT @ (vectors @ step), settled)
        if new is None:
            break
        flatter = new.gradient.abs().max() < 0.9 * point.gradient.abs().max()
        point, stale = new, stale + (settled and not flatter)
        if stale == 3:
            break
    else:
        settled = point.gradient.abs().max().item() <= limit
    return point, settled, saddle


def _shortened(surface: Surface, point: _Point, step: Tensor, settled: bool) -> _Point | None:
    """The point after the step or a part of it, if its loss is lower, or its gradient at no higher loss; else None."""
    # near the end all losses are the same to rounding, so the gradient has to decide. Its largest entry may belong to a
    # coordinate that the step hardly moves: a settled step between 1e-8 and 1e-2 is taken whatever the gradient does
    size = step.abs().max().item()
    if size == 0:
        return None
    rounding = min(1e5 * surface.resolution, 1e-4) * (1 + abs(point.loss))  # a diffuse start costs digits
    for part in (1.0,) if settled else (1.0, 0.3, 0.1, 0.01, 1e-3):
        at = point.at + step * (part * min(1.0, 5 / size))
        new = _Point(at, *surface.gradient(at))
        flatter = new.gradient.abs().max() < 0.9 * point.gradient.abs().max() or (settled and 1e-8 < size < 1e-2)
        if new.loss < point.loss - rounding or (new.loss <= point.loss + rounding and flatter):
            return new
    return None


def _curvature(surface: Surface, point: _Point, most: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """An orthonormal basis `(k, entries)`, and eigenvalues and eigenvectors of the Hessian in it (block Lanczos).

    The Krylov space starts from the gradient and from a random direction, which reaches directions that the gradient
    has no part in: a saddle is stationary in the direction that leads away from it.
    """
    basis: list[Tensor] = []
    products: list[Tensor] = []
    waiting = [point.gradient, surface.noise()]
    while waiting and len(basis) < most:
        new = waiting.pop(0)
        rest = new
        # twice: one pass of Gram and Schmidt leaves rounding that grows with each product
        for _ in range(2):
            for b in basis:
                rest = rest - (b @ rest) * b
        if not rest.norm() > 1e-6 * new.norm():
            continue
        rest = rest / rest.norm()
        product = surface.bend(point.at, rest)
        if product is None:
            continue
        basis.append(rest)
        products.append(product)
        waiting.append(product)
    if not basis:
        return point.at.new_zeros(0, len(point.at)), point.at.new_zeros(0), point.at.new_zeros(0, 0)
    q = torch.stack(basis)
    hessian = q @ torch.stack(products).mT
    return q, *torch.linalg.eigh((hessian + hessian.mT) / 2)


def _inwards(surface: Surface, point: _Point, count: int) -> tuple[Tensor, bool]:
    """The coordinates, with those on which the loss hardly depends moved to the lowest loss; True if any moved."""
    at, loss, moved = point.at, point.loss, False

    def put(i: int, entry: float) -> Tensor:
        new = at.clone()
        new[i] = entry
        return new

    for i in range(len(at)) if len(at) <= MOST else surface.bounded():
        entries = [at[i].item() + s for s in (1.0, -1.0)]
        losses = [surface.loss(put(i, entry)) for entry in entries]
        if max(abs(found - loss) for found in losses) <= 0.01 / count:
            entries, losses = _GRID, [surface.loss(put(i, entry)) for entry in _GRID]
        if loss - min(losses) > GAIN / count:
            at, loss, moved = put(i, entries[losses.index(min(losses))]), min(losses), True
    return at, moved


def _off_saddle(surface: Surface, point: _Point, direction: Tensor, count: int) -> tuple[Tensor, bool]:
    """The lowest place along a direction in which the loss is concave; True if it gains."""
    places = [point.at + s * 10.0**-k * direction for k in range(4) for s in (1, -1)]
    losses = [surface.loss(at) for at in places]
    lowest = min(losses)
    gains = point.loss - lowest > max(1e-8 / count, 1e2 * surface.resolution * (1 + abs(lowest)))
    return (places[losses.index(lowest)], True) if gains else (point.at, False)


def _starts(surface: Surface, start: Tensor, count: int, restarts: int) -> list[Tensor]:
    """Further starts, as entries of the parameters; none where no parameter has a constraint.

    For the first one all scales (`Surface.scales`) are multiplied by the one power of ten that gains most, then each by
    its own, twice. For the others each scale is drawn within six decades below ten times the largest that costs no more
    than 2 nats; the other coordinates under a constraint are drawn from N(0, 1).
    """
    # scales are found by trials of the value, since a parameter may be a variance, a standard deviation or a rate.
    # Maxima differ in which of the parameters are as good as zero: hence the decades downwards. A sigmoid maps half of
    # the draws from N(0, 1) to the middle third of its interval
    if not restarts:
        return []
    surface.write(start)
    surface.units()
    scales, at = surface.scales(), surface.at
    others = [i for i in surface.bounded() if not any(_owns(surface, k, i) for k in scales)]
    if not (scales or others):
        return []
    decades = [10.0**k for k in range(12, -13, -1)]
    most = dict.fromkeys(scales, 1.0)
    for group in [scales, *[[k] for k in scales] * 2] if scales else []:
        places = [surface.rescaled(at, dict.fromkeys(group, factor)) for factor in decades]
        losses = [surface.loss(place) for place in places]
        lowest = losses.index(min(losses))
        at = places[lowest]
        allowed = next(i for i, loss in enumerate(losses) if loss <= losses[lowest] + 2 / count)
        most[group[0]] = decades[allowed] / decades[lowest]
    # a generator of its own: the climb ends at the same maximum each time, and the caller's stream stays where it is
    found, generator = [at], torch.Generator().manual_seed(0)
    for _ in range(restarts - 1):
        down = 6 * torch.rand(len(scales), generator=generator, dtype=torch.float64)
        factors = {k: 10 * most[k] / 10**d for k, d in zip(scales, down.tolist(), strict=True)}
        place = surface.rescaled(at, factors)
        place[others] = torch.randn(len(others), generator=generator, dtype=torch.float64).to(place)
        found.append(place)
    return [place * surface.unit for place in found]


def _owns(surface: Surface, k: int, i: int) -> bool:
    """Tells whether coordinate i is one of the k-th parameter."""
    start = sum(surface.sizes[:k])
    return start <= i < start + surface.sizes[k]
