"""Moments of the linear-Gaussian model, in the layout of the recursions.

They come from factors of covariances, so that they stay accurate where covariances are nearly singular or span many
orders of magnitude.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.parts.kalman.checks import refuse_covariance, refuse_moments
from zoo.parts.kalman.engines import pytorch as kalman_torch
from zoo.parts.kalman.layout import Layout


class Given(NamedTuple):
    """Checked input, before it is laid out.

    mask: grouped, `(T | 1, P | 1, m)`, one where observed; tensors: m_1, P_1, A, Q, C, R, y, c as they were given;
    explain: raises what is wrong with their values, called where a result is not finite.
    """

    layout: Layout
    mask: Tensor | None
    tensors: list
    explain: Callable[[], None]


class Canonical(NamedTuple):
    """A model and data in the layout of `kalman_torch`: G, N, P_1 `(P, n, n)`; columns m_1 `(P, n, D)`, y, offset."""

    g: Tensor
    noise: Tensor
    first: Tensor
    first_mean: Tensor
    y: Tensor
    offset: Tensor

    @property
    def data(self) -> int:
        return self.y.shape[-2]

    def blocks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C, A, R, Q."""
        m = self.data
        return self.g[..., :m, :], self.g[..., m:, :], self.noise[..., :m, :m], self.noise[..., m:, m:]


def canonical(
    layout: Layout,
    mask: Tensor | None,
    m_1: Tensor,
    p_1: Tensor,
    a: Tensor,
    q: Tensor,
    c: Tensor,
    r: Tensor,
    y: Tensor,
    b: Tensor | None,
) -> Canonical:
    """mask: `(T | 1, P | 1, m)`, one where observed. A missing coordinate: no row in C, unit noise of its own in R."""
    c, r = layout.group(c, 2), layout.group(r, 2)
    if mask is not None:
        c = c * mask.unsqueeze(-1)
        r = r * mask.unsqueeze(-1) * mask.unsqueeze(-2) + torch.diag_embed(1 - mask)
    a, q = layout.group(a, 2, shifted=True), layout.group(q, 2, shifted=True)
    data, state = c.shape[-2:]
    g = c.new_empty(*_lead(a, c), data + state, state)  # written into, block by block: half the time of `torch.cat`
    g[..., :data, :], g[..., data:, :] = c, a
    noise = r.new_zeros(*_lead(q, r), data + state, data + state)
    noise[..., :data, :data], noise[..., data:, data:] = r, q
    offset = y.new_zeros(1, 1, state, 1, dtype=torch.float64)
    if b is not None:
        offset = layout.spread(b, shifted=True, shared=True)
    first = layout.group(p_1, 2, timed=False)
    return Canonical(g, noise, first, layout.spread(m_1, timed=False), layout.spread(y), offset)


def _lead(a: Tensor, b: Tensor) -> tuple[int, int]:
    """Times and groups of two parameters together."""
    return max(len(a), len(b)), max(a.shape[1], b.shape[1])


def engine(device: torch.device) -> ModuleType:
    """The module that runs the recursions: compiled on the CPU where numba is installed, else PyTorch."""
    return _compiled() or kalman_torch if device.type == "cpu" else kalman_torch


@cache
def _compiled() -> ModuleType | None:
    if find_spec("numba") is None:
        return None
    from zoo.parts.kalman.engines import compiled  # here, since numba takes a second to import

    return compiled


def roots(layout: Layout, model: Canonical) -> tuple[Tensor, Tensor]:
    """Roots of N and of P_1; refuses what is no covariance."""
    root, rounding = engine(model.g.device).root, torch.finfo(layout.dtype).eps
    noise_root, fine_noise = root(model.noise, rounding)
    first, fine_first = root(model.first.unsqueeze(0), rounding)
    if not (fine_noise.all() and fine_first.all()):
        _, _, r, q = model.blocks()
        refuse_covariance("initial_covariance", layout, fine_first, shifted=False)
        refuse_covariance("transition_covariance", layout, root(q, rounding)[1], shifted=True)
        refuse_covariance("emission_covariance", layout, root(r, rounding)[1], shifted=False)
    return noise_root, first.squeeze(0)


class Forward(NamedTuple):
    """What the forward recursions leave: a root of P_1, F until it settles, a_t, w_t, log p(x_t | x_{1:t-1})."""

    noise_root: Tensor
    first: Tensor
    factor: Tensor
    settled: Tensor
    mean: Tensor
    whitened: Tensor
    increments: Tensor  # (T, P, 1, D)


def forward(given: Given, model: Canonical) -> Forward:
    """The two forward recursions, of covariances and of means."""
    layout, mask, _, explain = given
    run = engine(model.g.device)
    noise_root, first = roots(layout, model)
    factor, settled = run.factors(model.g, model.noise, noise_root, first, layout.steps)
    found = run.means(model.g, factor, settled, model.first_mean, model.y, model.offset)
    mean, whitened, increments = found
    observed = model.data if mask is None else mask.sum(-1)[..., None, None]
    increments = increments - 0.5 * math.log(2 * math.pi) * observed
    if not math.isfinite(increments.sum()):
        explain()
        refuse_moments(layout, factor, settled, increments, model.data)
    return Forward(noise_root, first, factor, settled, mean, whitened, increments)


class Solved(NamedTuple):
    """The forward pass with all that the moments need, for all times."""

    run: ModuleType
    model: Canonical
    first: Tensor
    noise_root: Tensor
    spread: Tensor  # L_t, (T, P, n, n)
    factor: Tensor
    settled: Tensor
    mean: Tensor
    whitened: Tensor
    increments: Tensor
    inverse: Tensor  # S^-1/2
    gain: Tensor
    closed: Tensor  # A - K C
    half: Tensor  # P C' S^-1/2', what w_t adds to the filtered mean


@torch.no_grad()
def solve(given: Given) -> Solved:
    """`forward`, unfolded for the moments."""
    layout, model = given.layout, canonical(given.layout, given.mask, *given.tensors)
    f = forward(given, model)
    m = model.data
    index = torch.minimum(torch.arange(layout.steps, device=f.settled.device).unsqueeze(-1), f.settled)
    factor = f.factor[index, torch.arange(len(f.first), device=index.device)]
    spread = torch.cat([f.first.unsqueeze(0), factor[:-1, :, m:, m:]])
    inverse, gain, closed = kalman_torch.gains(model.g, factor)
    half = spread @ (model.g[..., :m, :] @ spread).mT @ inverse.mT
    last = torch.full_like(f.settled, layout.steps - 1)
    run, roots, means = engine(factor.device), (f.first, f.noise_root), (f.mean, f.whitened, f.increments)
    return Solved(run, model, *roots, spread, factor, last, *means, inverse, gain, closed, half)


def filtered(s: Solved) -> list[Tensor]:
    """Values for `Filtered`: the increments, then predicted and filtered means and covariances."""
    return [s.increments, s.mean, square(s.spread), s.mean + s.half @ s.whitened, square(_filtered_root(s))]


def _filtered_root(s: Solved) -> Tensor:
    """A root of Cov(z_t | x_{1:t}), `(T, P, n, n + m)`, in Joseph form."""
    m = s.model.data
    gain = s.half @ s.inverse
    noise = gain @ s.noise_root[..., :m, :m]
    return torch.cat([s.spread - gain @ (s.model.g[..., :m, :] @ s.spread), noise], -1)


class Backward(NamedTuple):
    """What the backward recursions need: two ways to p(z_t | x), and which to take where.

    From the filter with what the future says about z_{t+1}, mean r_t and information I_t (Bryson & Frazier):

        E[z_t | x] = f_t + P A' r_t,    Cov(z_t | x) = P - P A' I_t A P,    f_t, P the filtered moments.

    Stable for every model, but a difference: where the future knows much more than the past (a diffuse start), digits
    are lost. There, at the times and groups in `diffuse`, from the smoothed z_{t+1} (Rauch, Tung & Striebel):

        p(z_t | x_{1:t}, z_{t+1}) = N(a_t + W (v_t, z_{t+1} - A a_t - c_t), root root').
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
    information = s.run.congruence(s.closed.mT, observed, nothing, backward=True)[1:]
    root = _filtered_root(s)
    moved = a @ root
    kept = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) - moved.mT @ information @ moved
    inner, info = torch.linalg.cholesky_ex(kept)
    lost = (info != 0) | ~(inner.diagonal(dim1=-2, dim2=-1).square().amin(-1) > 1e-3)
    lost[-1] = False  # nothing comes after the last step
    diffuse = lost.nonzero(as_tuple=True)
    at = lambda tensor: tensor.expand(*lost.shape, *tensor.shape[2:])[diffuse]  # noqa: E731
    m, state = s.model.data, a.shape[-1]
    earlier = pad(at(root), (0, state))
    later = torch.cat([at(moved), at(s.noise_root)[..., m:, m:]], -1)
    factor = kalman_torch.triangularise(torch.cat([later, earlier], -2))
    ahead, both = factor[..., :state, :state], factor[..., state:, :state]
    certain = ahead.diagonal(dim1=-2, dim2=-1) == 0  # a direction without noise says nothing new: its column is zero
    ahead = ahead + torch.diag_embed(certain.to(ahead))
    pull = torch.linalg.solve_triangular(ahead, both, upper=False, left=False)
    covariance = square(root)
    conditional = factor[..., state:, state:]
    return Backward(root, covariance, covariance @ a.mT, information, root @ inner, diffuse, pull, conditional)


def smoothed(s: Solved) -> list[Tensor]:
    """Values for `Smoothed`: the increments, filtered and smoothed moments, Cov(z_{t+1}, z_t | x)."""
    b = backward(s)
    smooth = square(b.smoothed_root)
    cross = (b.pulled - b.pulled @ b.information @ square(_next(s.spread)))[:-1].mT
    if len(b.pull):
        back = torch.zeros_like(smooth[:-1])
        back[b.diffuse] = b.pull
        smooth[b.diffuse] = square(b.conditional_root)
        smooth = s.run.congruence(back, smooth[:-1], smooth[-1], backward=True)
        cross[b.diffuse] = (smooth[1:] @ back.mT)[b.diffuse]
    means = smoothed_mean(s, b, s.mean, s.whitened, s.model.offset)
    return [s.increments, s.mean + s.half @ s.whitened, b.covariance, means, smooth, cross]


def _next(tensor: Tensor) -> Tensor:
    """Entry t + 1 in place of entry t; the last repeats."""
    return torch.cat([tensor[1:], tensor[-1:]])


def smoothed_mean(s: Solved, b: Backward, mean: Tensor, whitened: Tensor, offset: Tensor) -> Tensor:
    """E[z_t | x], `(T, P, n, D)`, from a_t and w_t."""
    c, a, _, _ = s.model.blocks()
    r = s.run.affine(s.closed.mT, (s.inverse @ c).mT @ whitened, torch.zeros_like(mean[0]), backward=True)[1:]
    found = mean + s.half @ whitened + b.pulled @ r
    if not len(b.pull):
        return found
    back = torch.zeros_like(s.closed[:-1])
    back[b.diffuse] = b.pull
    at = lambda tensor: tensor.expand(*mean.shape[:2], *tensor.shape[2:])[b.diffuse]  # noqa: E731
    updated = at(mean + s.half @ whitened)
    found[b.diffuse] = updated - b.pull @ (at(a) @ updated + at(offset))
    return s.run.affine(back, found[:-1], found[-1], backward=True)


def square(root: Tensor) -> Tensor:
    """root root', the covariance of a root."""
    return root @ root.mT
