"""Moments of the linear-Gaussian model in the layout of the recursions: their values, and formulas for their derivatives.

Values come from factors, so that they stay accurate where covariances are nearly singular or span many orders of
magnitude. Derivatives come from textbook formulas with the same gains: at the optimal gain K, held fixed,

    P_{t+1} = (A - K C) P_t (A - K C)' + K R K' + Q                      (Joseph; d P_{t+1} / d K = 0)

makes the covariances a linear recursion, and given them so are the means and the smoother (Bryson & Frazier). So
`formula` gives a tensor with the right derivative, `value` the right value, and `value + formula - formula.detach()` both.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from zoo.parts import kalman_torch
from zoo.parts.kalman_checks import refuse_covariance, refuse_moments
from zoo.parts.kalman_layout import Layout


class Canonical(NamedTuple):
    """A model and data in the layout of `kalman_torch`: G, N, P_1 `(P, n, n)`, and as columns m_1 `(P, n, D)`, y, offset."""

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
    layout: Layout, mask: Tensor | None, m_1: Tensor, p_1: Tensor, a: Tensor, q: Tensor, c: Tensor, r: Tensor, y: Tensor, b: Any
) -> Canonical:
    """mask: `(T | 1, P | 1, m)`, one where observed. A missing coordinate: no row in C, unit noise of its own in R."""
    c, r = layout.group(c, 2), layout.group(r, 2)
    if mask is not None:
        c = c * mask.unsqueeze(-1)
        r = r * mask.unsqueeze(-1) * mask.unsqueeze(-2) + torch.diag_embed(1 - mask)
    a, q = layout.group(a, 2, shifted=True), layout.group(q, 2, shifted=True)
    lead = [max(sizes) for sizes in zip(a.shape[:2], c.shape[:2], strict=True)]
    g = torch.cat([c.expand(*lead, *c.shape[2:]), a.expand(*lead, *a.shape[2:])], -2)
    data, state = c.shape[-2:]
    noise = pad(r, (0, state, 0, state)) + pad(q, (data, 0, data, 0))
    offset = y.new_zeros(1, 1, state, 1, dtype=torch.float64) if b is None else layout.spread(b, shifted=True, shared=True)
    first = layout.group(p_1, 2, timed=False)
    return Canonical(g, noise, first, layout.spread(m_1, timed=False), layout.spread(y), offset)


def engine(device: torch.device) -> ModuleType:
    """The module that runs the recursions: compiled on the CPU where numba is installed, else PyTorch."""
    return _compiled() or kalman_torch if device.type == "cpu" else kalman_torch


@cache
def _compiled() -> ModuleType | None:
    if find_spec("numba") is None:
        return None
    from zoo.parts import kalman_numba  # here, since numba takes a second to import

    return kalman_numba


def roots(layout: Layout, model: Canonical) -> tuple[Tensor, Tensor]:
    """Roots of N and of P_1; refuses what is no covariance."""
    root, rounding = engine(model.g.device).root, torch.finfo(layout.dtype).eps
    noise_root, fine_noise = root(model.noise, rounding)
    first, fine_first = root(model.first.unsqueeze(0), rounding)
    if not (fine_noise.all() and fine_first.all()):
        _, _, r, q = model.blocks()
        refuse_covariance("initial_covariance", fine_first, shifted=False)
        refuse_covariance("transition_covariance", root(q, rounding)[1], shifted=True)
        refuse_covariance("emission_covariance", root(r, rounding)[1], shifted=False)
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


def forward(layout: Layout, model: Canonical, mask: Tensor | None, explain: Callable[[], None]) -> Forward:
    """explain: raises what is wrong with the input; called if the likelihood is not finite."""
    run = engine(model.g.device)
    noise_root, first = roots(layout, model)
    factor, settled = run.factors(model.g, model.noise, noise_root, first, layout.steps)
    found = run.means(model.g, factor, settled, model.first_mean, model.y, model.offset)
    mean, whitened, increments = found
    observed = model.data if mask is None else mask.sum(-1)[..., None, None]
    increments = increments - 0.5 * math.log(2 * math.pi) * observed
    if not math.isfinite(increments.sum()):
        explain()
        refuse_moments(factor, settled, increments, model.data)
    return Forward(noise_root, first, factor, settled, mean, whitened, increments)


class Solved(NamedTuple):
    """The forward pass with all that the moments need, for all times."""

    run: ModuleType
    model: Canonical
    noise_root: Tensor
    spread: Tensor  # L_t, (T, P, n, n)
    factor: Tensor
    settled: Tensor
    mean: Tensor
    whitened: Tensor
    increments: Tensor
    inverse: Tensor  # S^-1/2
    gain: Tensor
    half: Tensor  # P C' S^-1/2', what w_t adds to the filtered mean


def solve(layout: Layout, model: Canonical, mask: Tensor | None, explain: Callable[[], None]) -> Solved:
    f = forward(layout, model, mask, explain)
    m = model.data
    index = torch.minimum(torch.arange(layout.steps, device=f.settled.device).unsqueeze(-1), f.settled)
    factor = f.factor[index, torch.arange(len(f.first), device=index.device)]
    spread = torch.cat([f.first.unsqueeze(0), factor[:-1, :, m:, m:]])
    inverse, gain, _ = kalman_torch.gains(model.g, factor)
    half = spread @ (model.g[..., :m, :] @ spread).mT @ inverse.mT
    last = torch.full_like(f.settled, layout.steps - 1)
    return Solved(
        engine(factor.device), model, f.noise_root, spread, factor, last, f.mean, f.whitened, f.increments, inverse, gain, half
    )


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
    weight: Tensor  # W, (number of diffuse, n, m + n)
    conditional_root: Tensor


def backward(s: Solved) -> Backward:
    c, a, _, _ = s.model.blocks()
    scaled = s.inverse @ c
    closed = (a - s.gain @ c).mT.contiguous()
    observed = (scaled.mT @ scaled).expand(closed.shape)
    information = s.run.congruence(closed, observed, torch.zeros_like(closed[0]), backward=True)[1:]
    root = _filtered_root(s)
    moved = a @ root
    kept = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) - moved.mT @ information @ moved
    inner, info = torch.linalg.cholesky_ex(kept)
    lost = (info != 0) | ~(inner.diagonal(dim1=-2, dim2=-1).square().amin(-1) > 1e-4)
    lost[-1] = False  # nothing comes after the last step
    diffuse = lost.nonzero(as_tuple=True)
    at = lambda tensor: tensor.expand(*lost.shape, *tensor.shape[2:])[diffuse]  # noqa: E731
    g, factor, spread, noise_root = (at(tensor) for tensor in (s.model.g, s.factor, s.spread, s.noise_root))
    certain = factor.diagonal(dim1=-2, dim2=-1) == 0  # a direction without noise says nothing new: any weight will do
    factor = factor + torch.diag_embed(certain.to(factor))
    product = g @ spread
    half = torch.linalg.solve_triangular(factor, product, upper=False)
    weight = torch.linalg.solve_triangular(factor.mT, half @ spread.mT, upper=True).mT
    conditional = torch.cat([spread - weight @ product, weight @ noise_root], -1)
    covariance = square(root)
    return Backward(root, covariance, covariance @ a.mT, information, root @ inner, diffuse, weight, conditional)


def smoothed(s: Solved) -> list[Tensor]:
    """Values for `Smoothed`: the increments, filtered and smoothed moments, Cov(z_{t+1}, z_t | x)."""
    b = backward(s)
    smooth = square(b.smoothed_root)
    cross = (b.pulled - b.pulled @ b.information @ square(_next(s.spread)))[:-1].mT
    if len(b.weight):
        back = torch.zeros_like(smooth[:-1])
        back[b.diffuse] = b.weight[..., s.model.data :]
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
    m = s.model.data
    c, a, _, _ = s.model.blocks()
    closed = (a - s.gain @ c).mT.contiguous()
    r = s.run.affine(closed, (s.inverse @ c).mT @ whitened, torch.zeros_like(mean[0]), backward=True)[1:]
    found = mean + s.half @ whitened + b.pulled @ r
    if not len(b.weight):
        return found
    back = torch.zeros_like(closed[:-1])
    back[b.diffuse] = b.weight[..., m:]
    at = lambda tensor: tensor.expand(*mean.shape[:2], *tensor.shape[2:])[b.diffuse]  # noqa: E731
    innovation = at(s.factor)[..., :m, :m] @ at(whitened)
    expected = at(a) @ at(mean) + at(offset)
    found[b.diffuse] = at(mean) + b.weight[..., :m] @ innovation - b.weight[..., m:] @ expected
    return s.run.affine(back, found[:-1], found[-1], backward=True)


class _Recursion(Function):
    """The engine's `affine` or `congruence`, with its gradient: the same recursion in the other direction."""

    @staticmethod
    def forward(ctx: Any, run: Callable, transition: Tensor, offset: Tensor, first: Tensor, backward: bool) -> Tensor:
        out = run(transition, offset, first, backward)
        ctx.run, ctx.direction = run, backward
        ctx.save_for_backward(transition, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        transition, out = ctx.saved_tensors
        if ctx.run.__name__ == "congruence":
            grad = (grad + grad.mT) / 2
        inner, end = (grad[1:], grad[0]) if ctx.direction else (grad[:-1], grad[-1])
        found = ctx.run(transition.mT, inner, end, not ctx.direction)
        after, before = (found[:-1], out[1:]) if ctx.direction else (found[1:], out[:-1])
        if ctx.run.__name__ == "affine":
            d_transition = after @ before.mT
        else:
            d_transition = after @ transition @ before.mT + after.mT @ transition @ before
        return None, d_transition, after, found[-1] if ctx.direction else found[0], None


def _run(run: Callable, transition: Tensor, offset: Tensor, first: Tensor, backward: bool = False) -> Tensor:
    steps = len(transition)
    return _Recursion.apply(run, transition, offset.expand(steps, *first.shape), first, backward)


class Formulas(NamedTuple):
    """Tensors with the derivatives of the forward pass; P and I have T + 1 entries."""

    closed: Tensor
    covariance: Tensor
    precision: Tensor  # S^-1
    mean: Tensor
    innovation: Tensor
    increments: Tensor


def forward_formulas(s: Solved, model: Canonical) -> Formulas:
    c, a, r, q = model.blocks()
    steps, groups = s.gain.shape[:2]
    held = (a - s.gain @ c).expand(steps, groups, *a.shape[2:])
    covariance = _run(s.run.congruence, held, q + s.gain @ r @ s.gain.mT, model.first)
    spread_c = covariance[:-1] @ c.mT
    change = c @ spread_c + r
    change = change - change.detach()
    fixed = s.inverse.mT @ s.inverse
    precision = fixed - fixed @ change @ fixed
    product = a @ spread_c
    gain = s.gain + (product - product.detach() - s.gain @ change) @ fixed
    closed = (a - gain @ c).expand(steps, groups, *a.shape[2:])
    mean = _run(s.run.affine, closed, gain @ model.y + model.offset, model.first_mean)[:-1]
    innovation = model.y - c @ mean
    squares = ((precision @ innovation) * innovation).sum(-2, keepdim=True)
    increments = -0.5 * (squares + (fixed * change).sum((-2, -1), keepdim=True))
    return Formulas(closed, covariance, precision, mean, innovation, increments)


def filtered_formulas(s: Solved, model: Canonical) -> list[Tensor]:
    f = forward_formulas(s, model)
    return [f.increments, f.mean, f.covariance[:-1], *_update(f, model)]


def _update(f: Formulas, model: Canonical) -> list[Tensor]:
    """Filtered mean and covariance."""
    c, _, _, _ = model.blocks()
    spread_c = f.covariance[:-1] @ c.mT
    covariance = f.covariance[:-1] - spread_c @ f.precision @ spread_c.mT
    return [f.mean + spread_c @ f.precision @ f.innovation, covariance]


def smoothed_formulas(s: Solved, model: Canonical) -> list[Tensor]:
    f = forward_formulas(s, model)
    c, _, _, _ = model.blocks()
    weighted = f.precision @ c
    nothing = torch.zeros_like(model.first)
    information = _run(s.run.congruence, f.closed.mT, c.mT @ weighted, nothing, backward=True)
    p = f.covariance[:-1]
    covariance = p - p @ information[:-1] @ p
    after = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - p[1:] @ information[1:-1]
    cross = after @ f.closed[:-1] @ p[:-1]
    return [
        f.increments,
        *_update(f, model),
        smoothed_mean_formula(s, f, model, f.mean, f.innovation),
        covariance,
        cross,
    ]


def smoothed_mean_formula(s: Solved, f: Formulas, model: Canonical, mean: Tensor, innovation: Tensor) -> Tensor:
    """a_t + P_t r_{t-1} with r_{t-1} = C' S^-1 v_t + (A - K C)' r_t."""
    c, _, _, _ = model.blocks()
    pushed = (f.precision @ c).mT @ innovation
    r = _run(s.run.affine, f.closed.mT, pushed, torch.zeros_like(pushed[0]), backward=True)
    return mean + f.covariance[:-1] @ r[:-1]


class _Root(Function):
    """A given root of a covariance, with the gradient of the Cholesky factor; singular directions get none."""

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, root: Tensor) -> Tensor:
        ctx.save_for_backward(root)
        return root.expand(covariance.shape).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        singular = root.diagonal(dim1=-2, dim2=-1) == 0
        regular = root + torch.diag_embed(singular.to(root))
        inner = (regular.mT @ grad).tril()
        inner = inner - 0.5 * torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
        left = torch.linalg.solve_triangular(regular.mT, inner.masked_fill(singular.unsqueeze(-1), 0.0), upper=True)
        found = torch.linalg.solve_triangular(regular, left, upper=False, left=False)
        return (found + found.mT) / 2, None


def draw(model: Canonical, noise_root: Tensor, first_root: Tensor, steps: int, draws: int) -> tuple[Tensor, Tensor]:
    """z_{1:T} and C z_t + noise, `(T, P, size, draws * D)`, reparameterised."""
    groups, state, sequences = model.first_mean.shape
    noise_root, first_root = _Root.apply(model.noise, noise_root), _Root.apply(model.first, first_root)
    noise = noise_root @ model.g.new_empty(steps, groups, noise_root.shape[-1], draws * sequences).normal_()
    start = first_root @ model.g.new_empty(groups, state, draws * sequences).normal_()
    c, a, _, _ = model.blocks()
    m = model.data
    offset = model.offset if model.offset.shape[-1] == 1 else model.offset.repeat(1, 1, 1, draws)
    transition = a.expand(steps, groups, *a.shape[2:])
    first = start + model.first_mean.repeat(1, 1, draws)
    z = _run(engine(a.device).affine, transition, noise[..., m:, :] + offset, first)[:-1]
    return z, c @ z + noise[..., :m, :]


def smoothed_change(s: Solved, model: Canonical, x: Tensor, draws: int) -> Tensor:
    """E[z | y] - E[z | x] for `draws` drawn x of each sequence: linear in y - x, without means and offsets."""
    y = model.y.repeat(1, 1, 1, draws) - x
    nothing = y.new_zeros(y.shape[1], s.spread.shape[-1], y.shape[-1])
    offset = nothing[:1, :, :1].unsqueeze(0)
    mean, whitened, _ = s.run.means(s.model.g, s.factor, s.settled, nothing, y.detach(), offset)
    value = smoothed_mean(s, backward(s), mean, whitened, offset)
    if not torch.is_grad_enabled():
        return value
    f = forward_formulas(s, model._replace(y=y, first_mean=nothing, offset=offset))
    return with_value(value, smoothed_mean_formula(s, f, model, f.mean, f.innovation))


def with_value(value: Tensor, formula: Tensor) -> Tensor:
    """The derivative of `formula` at `value`."""
    return value + (formula - formula.detach())


def square(root: Tensor) -> Tensor:
    """root root', the covariance of a root."""
    return root @ root.mT
