"""Moments of the linear-Gaussian model, in the layout of the recursions.

Covariances are carried as factors. A factor of P has the square root of P's condition number, so digits survive where
covariances are nearly singular or span many orders of magnitude (R = 1e-12, P_1 = 1e8), and no variance is negative.
"""

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.parts.kalman.checks import refuse_covariance, refuse_moments
from zoo.parts.kalman.engines import engine_for, lanes_for, pytorch
from zoo.parts.kalman.engines.pytorch import gains, triangularise
from zoo.parts.kalman.given import Canonical, Problem, canonical
from zoo.parts.kalman.layout import Grouping


def roots(grouping: Grouping, model: Canonical) -> tuple[Tensor, Tensor]:
    """Roots of N and of P_1.

    Raises:
        ValueError: P_1, Q or R is no covariance.
    """
    # a covariance that was computed in float32 is singular up to float32's rounding, not up to that of float64
    root, rounding = engine_for(model.g.device).root, torch.finfo(grouping.dtype).eps
    noise_root, fine_noise = root(model.noise, rounding)
    initial_root, fine_initial = root(model.initial_covariance.unsqueeze(0), rounding)
    if not (fine_noise.all() and fine_initial.all()):
        _, _, r, q = model.blocks()
        refuse_covariance("initial_covariance", grouping, fine_initial, shifted=False)
        refuse_covariance("transition_covariance", grouping, root(q, rounding)[1], shifted=True)
        refuse_covariance("emission_covariance", grouping, root(r, rounding)[1], shifted=False)
    return noise_root, initial_root.squeeze(0)


class Forward(NamedTuple):
    """The results of the forward recursions, as the likelihood and its gradient need them."""

    noise_root: Tensor  # of N
    initial_root: Tensor  # of P_1
    factor: Tensor  # F_t up to the step at which it settles
    settled: Tensor  # that step, (P,)
    mean: Tensor  # a_t = E[z_t | x_{1:t-1}]
    whitened: Tensor  # w_t = S^-1/2 (y_t - C a_t)
    increments: Tensor  # log p(x_t | x_{1:t-1}), (T, P, 1, D)


def forward(problem: Problem, model: Canonical) -> Forward:
    """The two forward recursions, of covariances and of means.

    Raises:
        ValueError: P_1, Q or R is no covariance, a value is not finite, a frame is certain given the past.
    """
    grouping, mask, _, explain = problem
    engine = engine_for(model.g.device)
    noise_root, initial_root = roots(grouping, model)
    factor, settled = engine.factors(model.g, model.noise, noise_root, initial_root, grouping.steps)
    mean, whitened, increments = engine.means(model.g, factor, settled, model.initial_mean, model.y, model.offset)
    # a missing coordinate has innovation 0 and variance 1, so its constant is all that it would add
    observed = model.data_dim if mask is None else mask.sum(-1)[..., None, None]
    increments = increments - 0.5 * math.log(2 * math.pi) * observed
    if not math.isfinite(increments.sum()):
        explain()
        refuse_moments(grouping, factor, settled, increments, model.data_dim)
    return Forward(noise_root, initial_root, factor, settled, mean, whitened, increments)


class Solved(NamedTuple):
    """The forward pass with all that the moments need, for all times."""

    engine: ModuleType
    model: Canonical
    initial_root: Tensor
    noise_root: Tensor
    spread: Tensor  # L_t, (T, P, n, n), a root of Cov(z_t | x_{1:t-1})
    factor: Tensor
    settled: Tensor
    mean: Tensor
    whitened: Tensor
    increments: Tensor
    inverse: Tensor  # S^-1/2
    gain: Tensor  # K
    closed: Tensor  # A - K C
    half: Tensor  # P C' S^-1/2', by which w_t moves the predicted mean to the filtered mean


@torch.no_grad()
def solve(problem: Problem) -> Solved:
    """`forward`, unfolded for the moments."""
    steps, model = problem.grouping.steps, canonical(*problem[:3])
    f = forward(problem, model)
    m = model.data_dim
    index = torch.minimum(torch.arange(steps, device=f.settled.device).unsqueeze(-1), f.settled)
    factor = f.factor[index, torch.arange(len(f.initial_root), device=index.device)]
    spread = torch.cat([f.initial_root.unsqueeze(0), factor[:-1, :, m:, m:]])
    inverse, gain, closed = gains(model.g, factor)
    half = spread @ (model.g[..., :m, :] @ spread).mT @ inverse.mT
    return Solved(
        engine=engine_for(factor.device),
        model=model,
        initial_root=f.initial_root,
        noise_root=f.noise_root,
        spread=spread,
        factor=factor,
        settled=torch.full_like(f.settled, steps - 1),  # unfolded: every step has a factor of its own
        mean=f.mean,
        whitened=f.whitened,
        increments=f.increments,
        inverse=inverse,
        gain=gain,
        closed=closed,
        half=half,
    )


def filtered(s: Solved) -> list[Tensor]:
    """Values of `Filtered`: the increments, then predicted and filtered means and covariances."""
    return [s.increments, s.mean, square(s.spread), s.mean + s.half @ s.whitened, square(_filtered_root(s))]


@torch.no_grad()
def filtered_alone(problem: Problem) -> list[Tensor]:
    """`filtered` where no derivatives are wanted, so that nothing has to be kept for their formulas."""
    lanes = lanes_for(problem)
    found = None if lanes is None else lanes.filtered(problem)
    return filtered(solve(problem)) if found is None else found


def _filtered_root(s: Solved) -> Tensor:
    """A root of Cov(z_t | x_{1:t}), `(T, P, n, n + m)`, in Joseph form."""
    # Joseph: (I - K' C) P (I - K' C)' + K' R K'' is a sum of squares for any gain K'; P - P C' S^-1 C P, which needs no
    # root of R, is a difference and loses digits where x is exact
    m = s.model.data_dim
    gain = s.half @ s.inverse
    noise = gain @ s.noise_root[..., :m, :m]
    return torch.cat([s.spread - gain @ (s.model.g[..., :m, :] @ s.spread), noise], -1)


class Backward(NamedTuple):
    """The results of the backward recursion of covariances: two ways to p(z_t | x), and the places of the second.

    Bryson & Frazier, from the filter and the mean r_t and information I_t that the future has about z_{t+1}:

        E[z_t | x] = f_t + P A' r_t,    Cov(z_t | x) = P - P A' I_t A P,    f_t, P the filtered moments.

    This is stable for every model, but it is a difference: digits are lost where the future knows much more than the
    past (a diffuse start). Such times and groups are in `diffuse`. Rauch, Tung & Striebel, from the smoothed z_{t+1}:

        p(z_t | x_{1:t}, z_{t+1}) = N(f_t + J (z_{t+1} - A f_t - c_t), root root').
    """

    filtered_root: Tensor
    covariance: Tensor  # P
    pulled: Tensor  # P A'
    information: Tensor  # I_t
    smoothed_root: Tensor  # of P - P A' I_t A P
    diffuse: tuple[Tensor, Tensor]  # indices of time and group
    pull: Tensor  # J, (number of diffuse, n, n)
    conditional_root: Tensor


def backward(s: Solved) -> Backward:
    """The backward recursion of covariances."""
    c, a, _, _ = s.model.blocks()
    scaled = s.inverse @ c
    observed, nothing = scaled.mT @ scaled, torch.zeros_like(s.closed[0])
    information = s.engine.congruence(s.closed.mT, observed, nothing, backward=True)[1:]
    root = _filtered_root(s)
    moved = a @ root
    # P - P A' I A P = root (1 - root' A' I A root) root': the difference is taken next to the identity, where it is
    # relative to P, and its Cholesky factor makes the smoothed covariance a sum of squares
    kept = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) - moved.mT @ information @ moved
    inner, info = torch.linalg.cholesky_ex(kept)
    # a pivot of 1e-3: the future has left a thousandth of a variance, so three of sixteen digits are gone. The second
    # way is for such places alone, since it divides by a root of Cov(z_{t+1} | x_{1:t}), nearly singular where Q is
    lost = (info != 0) | ~(inner.diagonal(dim1=-2, dim2=-1).square().amin(-1) > 1e-3)
    lost[-1] = False  # nothing comes after the last step
    diffuse = lost.nonzero(as_tuple=True)
    pull, conditional_root = _conditionals(s, root, moved, diffuse)
    covariance = square(root)
    return Backward(root, covariance, covariance @ a.mT, information, root @ inner, diffuse, pull, conditional_root)


def _conditionals(s: Solved, root: Tensor, moved: Tensor, diffuse: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """J and a root of Cov(z_t | x_{1:t}, z_{t+1}), at the diffuse times and groups."""
    m, state = s.model.data_dim, root.shape[-2]
    # a root of the joint covariance of (z_{t+1}, z_t), made triangular: its blocks are a root of Cov(z_{t+1}), J times
    # that root, and a root of the conditional covariance. By QR, since the joint covariance would square the diffuse
    # entries
    earlier = pad(_at(root, diffuse, root), (0, state))
    later = torch.cat([_at(moved, diffuse, root), _at(s.noise_root, diffuse, root)[..., m:, m:]], -1)
    factor = triangularise(torch.cat([later, earlier], -2))
    ahead, both = factor[..., :state, :state], factor[..., state:, :state]
    certain = ahead.diagonal(dim1=-2, dim2=-1) == 0  # a direction without noise says nothing new: its column is zero
    ahead = ahead + torch.diag_embed(certain.to(ahead))
    pull = torch.linalg.solve_triangular(ahead, both, upper=False, left=False)
    return pull, factor[..., state:, state:]


def _at(tensor: Tensor, places: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    """The entries at these times and groups of a tensor, which may have length 1 where `like` has T or P."""
    return tensor.expand(*like.shape[:2], *tensor.shape[2:])[places]


def smoothed(s: Solved) -> list[Tensor]:
    """Values of `Smoothed`: the increments, filtered and smoothed moments, Cov(z_{t+1}, z_t | x)."""
    b = backward(s)
    smooth = square(b.smoothed_root)
    cross = (b.pulled - b.pulled @ b.information @ square(_next(s.spread)))[:-1].mT
    if len(b.pull):
        # one recursion over all times, as in `smoothed_mean`: its transition is zero where the moments are known
        back = torch.zeros_like(smooth[:-1])
        back[b.diffuse] = b.pull
        smooth[b.diffuse] = square(b.conditional_root)
        smooth = s.engine.congruence(back, smooth[:-1], smooth[-1], backward=True)
        cross[b.diffuse] = (smooth[1:] @ back.mT)[b.diffuse]
    means = smoothed_mean(s, b, s.mean, s.whitened, s.model.offset)
    return [s.increments, s.mean + s.half @ s.whitened, b.covariance, means, smooth, cross]


@torch.no_grad()
def smoothed_alone(problem: Problem) -> list[Tensor]:
    """`smoothed` where no derivatives are wanted; the sum of the increments may stand in for them."""
    lanes = lanes_for(problem)
    if lanes is not None and (found := lanes.smoothed(problem)) is not None:
        return found
    engine = engine_for(problem.tensors.y.device)
    if engine is pytorch:
        return smoothed(solve(problem))
    model = canonical(*problem[:3])
    f = forward(problem, model)
    passed = f.factor, f.settled, f.mean, f.whitened
    return [f.increments, *engine.smoothed(model.g, f.noise_root, f.initial_root, passed, model.offset)]


def _next(tensor: Tensor) -> Tensor:
    """Entry t + 1 in place of entry t; the last repeats."""
    return torch.cat([tensor[1:], tensor[-1:]])


def smoothed_mean(s: Solved, b: Backward, mean: Tensor, whitened: Tensor, offset: Tensor) -> Tensor:
    """E[z_t | x], `(T, P, n, D)`, from a_t and w_t."""
    c, a, _, _ = s.model.blocks()
    r = s.engine.affine(s.closed.mT, (s.inverse @ c).mT @ whitened, torch.zeros_like(mean[0]), backward=True)[1:]
    updated = mean + s.half @ whitened
    found = updated + b.pulled @ r
    if not len(b.pull):
        return found
    # at diffuse places the mean is J E[z_{t+1} | x] plus an offset, elsewhere it is known: one recursion runs over all
    # places, with a transition of zero where it is known
    back = torch.zeros_like(s.closed[:-1])
    back[b.diffuse] = b.pull
    filtered_mean = _at(updated, b.diffuse, mean)
    ahead = _at(a, b.diffuse, mean) @ filtered_mean + _at(offset, b.diffuse, mean)
    found[b.diffuse] = filtered_mean - b.pull @ ahead
    return s.engine.affine(back, found[:-1], found[-1], backward=True)


def square(root: Tensor) -> Tensor:
    """root root', the covariance of a root."""
    return root @ root.mT
