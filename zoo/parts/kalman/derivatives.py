"""Derivatives: of log p(x) by the adjoint recursion, of moments and draws by formulas with the gains of the filter.

The values of `kalman_moments` come from factors. Derivatives come from textbook formulas with the same gains: at the
optimal gain K, held fixed,

    P_{t+1} = (A - K C) P_t (A - K C)' + K R K' + Q                      (Joseph; d P_{t+1} / d K = 0)

makes the covariances a linear recursion, and given them so are the means and the smoother (Bryson & Frazier). A formula
gives a tensor with the right derivative, a value the right value, and `value + formula - formula.detach()` both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from zoo.parts.kalman.layout import unshift
from zoo.parts.kalman.moments import Canonical, Given, Solved, backward, canonical, engine, forward, smoothed_mean


def differentiable(given: Given) -> Canonical:
    """The model with the gradients of what was given, once."""
    return canonical(given.layout, given.mask, *[_Once.apply(a) if _wanted(a) else a for a in given.tensors])


def with_derivatives(values: list[Tensor], solved: Solved, given: Given, formulas: Callable) -> list[Tensor]:
    """The values, with the derivatives of the formulas where any are wanted."""
    if not (torch.is_grad_enabled() and any(map(_wanted, given.tensors))):
        return values
    derivatives = formulas(solved, differentiable(given))
    return [_with_value(v, f) for v, f in zip(values, derivatives, strict=True)]


def _wanted(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


class MarginalLoglik(Function):
    """log p(x) with the gradient by `adjoint`: what is kept for it are factors, means and innovations."""

    @staticmethod
    def forward(ctx: Any, given: Given, *tensors: Tensor) -> Tensor:
        layout, mask, _, _ = given
        model = canonical(layout, mask, *tensors)
        ctx.layout, ctx.mask, ctx.g = layout, mask, model.g
        ctx.steps = 1 if len(model.g) == len(model.noise) == 1 else layout.steps
        ctx.save_for_backward(*tensors)
        ctx.found = found = forward(given, model)
        return layout.back(found.increments.sum(0, keepdim=True))[..., 0, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layout, found = ctx.layout, ctx.found
        with torch.no_grad():
            weight = layout.spread(grad.unsqueeze(-1), timed=False).squeeze(-2)
            run = engine(grad.device)
            d_g, d_noise, d_first, d_mean, d_y, d_offset = run.adjoint(
                ctx.g, found.factor, found.settled, found.first, found.mean, found.whitened, weight, ctx.steps
            )
            data = d_y.shape[-2]
            d_c, d_r = d_g[..., :data, :], d_noise[..., :data, :data]
            if ctx.mask is not None:
                d_c, d_r = d_c * ctx.mask.unsqueeze(-1), d_r * ctx.mask.unsqueeze(-1) * ctx.mask.unsqueeze(-2)
            vector, matrix = layout.vector_gradient, layout.matrix_gradient
            pieces = [
                lambda like: vector(d_mean, like, timed=False),
                lambda like: matrix(d_first, like, timed=False),
                lambda like: matrix(unshift(d_g[..., data:, :]), like),
                lambda like: matrix(unshift(d_noise[..., data:, data:]), like),
                lambda like: matrix(d_c, like),
                lambda like: matrix(d_r, like),
                lambda like: vector(d_y, like),
                lambda like: vector(unshift(d_offset), like),
            ]
            wanted = zip(pieces, ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
            grads = [piece(tensor) if need else None for piece, tensor, need in wanted]
        if torch.is_grad_enabled():
            grads = [None if g is None else _Refusal.apply(g, *ctx.saved_tensors) for g in grads]
        return None, *grads


class _Refusal(Function):
    """A first derivative that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *tensors: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        raise RuntimeError(
            "zoo.parts.kalman.inference: a second derivative was asked for; the recursions have first derivatives only "
            "(for a Hessian take finite differences of the gradient)"
        )


class _Once(Function):
    """The tensor, whose gradient cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Refusal.apply(grad, *ctx.saved_tensors) if torch.is_grad_enabled() else grad


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
    """The derivatives of the forward pass."""
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
    """For `filtered`, entry by entry."""
    f = forward_formulas(s, model)
    return [f.increments, f.mean, f.covariance[:-1], *_update(f, model)]


def _update(f: Formulas, model: Canonical) -> list[Tensor]:
    """Filtered mean and covariance."""
    c, _, _, _ = model.blocks()
    spread_c = f.covariance[:-1] @ c.mT
    covariance = f.covariance[:-1] - spread_c @ f.precision @ spread_c.mT
    return [f.mean + spread_c @ f.precision @ f.innovation, covariance]


def smoothed_formulas(s: Solved, model: Canonical) -> list[Tensor]:
    """For `smoothed`, entry by entry."""
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
    return _with_value(value, smoothed_mean_formula(s, f, model, f.mean, f.innovation))


def _with_value(value: Tensor, formula: Tensor) -> Tensor:
    """The derivative of `formula` at `value`."""
    return value + (formula - formula.detach())
