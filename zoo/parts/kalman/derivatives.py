"""Derivatives: of log p(x) by the adjoint recursion, of moments and draws by formulas with the gains of the filter.

The values of `zoo.parts.kalman.moments` come from factors. Derivatives come from textbook formulas with the same gains.
The optimal gain K minimises P_{t+1}, so the derivative of P_{t+1} by K is zero, and with K held fixed

    P_{t+1} = (A - K C) P_t (A - K C)' + K R K' + Q                      (Joseph)

the covariances are a linear recursion. Given them, so are the means and the smoother (Bryson & Frazier). A formula has
the right derivative, a value has the right digits, and `value + formula - formula.detach()` has both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from zoo.parts.kalman.engines import engine_for, lanes_for
from zoo.parts.kalman.given import Canonical, Problem, Tensors, canonical
from zoo.parts.kalman.layout import unshift
from zoo.parts.kalman.moments import Solved, backward, forward, smoothed_mean
from zoo.parts.recursions.first_derivative import Refusal, differentiable_once


def differentiable(problem: Problem) -> Canonical:
    """The model laid out, a function of the problem's tensors that can be differentiated once."""
    tensors = problem.tensors
    once = Tensors._make(differentiable_once(a) if a is not None and _is_wanted(a) else a for a in tensors)
    return canonical(problem.grouping, problem.mask, once)


def wants_derivatives(problem: Problem) -> bool:
    """Tells whether the results of a problem are to be differentiated."""
    return torch.is_grad_enabled() and any(map(_is_wanted, problem.tensors))


def with_derivatives(values: list[Tensor], solved: Solved, problem: Problem, formulas: Callable) -> list[Tensor]:
    """The values, with the derivatives of the formulas."""
    derivatives = formulas(solved, differentiable(problem))
    return [_with_value(v, f) for v, f in zip(values, derivatives, strict=True)]


def _is_wanted(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


class MarginalLoglik(Function):
    """log p(x) with the gradient by `adjoint`; factors, means and innovations are kept for it."""

    # autograd through the loop over time would keep every intermediate matrix, and its backward pass would dispatch
    # each of them again: 15 times the memory of the compiled adjoint at T = 1000 and batch 32, 390 times at batch 1

    @staticmethod
    def forward(ctx: Any, problem: Problem, *tensors: Tensor) -> Tensor:
        grouping = problem.grouping
        model = canonical(grouping, problem.mask, Tensors(*tensors))
        ctx.grouping, ctx.mask, ctx.g = grouping, problem.mask, model.g
        # where G and N are constant only the sums of their gradients over time are wanted
        ctx.steps = 1 if len(model.g) == len(model.noise) == 1 else grouping.steps
        ctx.save_for_backward(*tensors)
        ctx.found = found = forward(problem, model)
        return grouping.back(found.increments.sum(0, keepdim=True))[..., 0, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grouping, f = ctx.grouping, ctx.found
        with torch.no_grad():
            weight = grouping.spread(grad.unsqueeze(-1), timed=False).squeeze(-2)
            engine = engine_for(grad.device)
            d_g, d_noise, d_covariance, d_mean, d_y, d_offset = engine.adjoint(
                ctx.g, f.factor, f.settled, f.initial_root, f.mean, f.whitened, weight, ctx.steps
            )
            data = d_y.shape[-2]
            d_c, d_r = d_g[..., :data, :], d_noise[..., :data, :data]
            if ctx.mask is not None:
                d_c, d_r = d_c * ctx.mask.unsqueeze(-1), d_r * ctx.mask.unsqueeze(-1) * ctx.mask.unsqueeze(-2)
            vector, matrix = grouping.vector_gradient, grouping.matrix_gradient
            # functions, so that the sums over axes are taken only for tensors that want a gradient
            pieces = [  # in the order of `Tensors`
                lambda like: vector(d_mean, like, timed=False),
                lambda like: matrix(d_covariance, like, timed=False),
                lambda like: matrix(unshift(d_g[..., data:, :]), like),
                lambda like: matrix(unshift(d_noise[..., data:, data:]), like),
                lambda like: matrix(d_c, like),
                lambda like: matrix(d_r, like),
                lambda like: vector(d_y, like),
                lambda like: vector(unshift(d_offset), like),
            ]
            wanted = zip(pieces, ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
            grads = [piece(tensor) if need else None for piece, tensor, need in wanted]
        return None, *_first_only(grads, ctx.saved_tensors)


def _first_only(grads: list[Tensor | None], tensors: tuple[Tensor, ...]) -> list[Tensor | None]:
    # with create_graph=True a second derivative has to raise an error: it would be wrong
    if not torch.is_grad_enabled():
        return grads
    return [None if g is None else Refusal.apply(g, *tensors) for g in grads]


class _InLanes(Function):
    """Known log p(x) with the gradient by a kernel that runs forward again; nothing but the tensors is kept for it."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, score: Callable, value: Tensor, *tensors: Tensor) -> Tensor:
        # the tensors go by way of autograd, which notices if they are changed before the gradient is taken
        ctx.rest, ctx.score = (problem.grouping, problem.mask, problem.explain), score
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            grouping, mask, explain = ctx.rest
            problem = Problem(grouping, mask, Tensors(*ctx.saved_tensors), explain)
            grads = ctx.score(problem, grad, ctx.needs_input_grad[3:])
        return None, None, None, *_first_only(grads, ctx.saved_tensors)


def loglik(problem: Problem) -> Tensor:
    """log p(x) in the caller's batch axes."""
    if (lanes := lanes_for(problem)) is not None and (found := lanes.loglik(problem)) is not None:
        value = problem.grouping.back(found[None, :, None, None])[..., 0, 0]
        return _InLanes.apply(problem, lanes.score, value, *problem.tensors)
    return MarginalLoglik.apply(problem, *problem.tensors)


class _Recursion(Function):
    """A linear recursion over time (`act`: the engine's `affine` or `congruence`) as an operation with a gradient.

    The gradient by the offsets follows the same recursion, transposed, run from the other end of time.
    """

    @staticmethod
    def forward(ctx: Any, act: Callable, transition: Tensor, offset: Tensor, start: Tensor, backward: bool) -> Tensor:
        out = act(transition, offset, start, backward)
        ctx.act, ctx.direction = act, backward
        ctx.save_for_backward(transition, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        transition, out = ctx.saved_tensors
        # the congruence keeps half of each matrix and mirrors it, so its adjoint sees the symmetric part alone
        if ctx.act.__name__ == "congruence":
            grad = (grad + grad.mT) / 2
        inner, end = (grad[1:], grad[0]) if ctx.direction else (grad[:-1], grad[-1])
        found = ctx.act(transition.mT, inner, end, not ctx.direction)
        after, before = (found[:-1], out[1:]) if ctx.direction else (found[1:], out[:-1])
        if ctx.act.__name__ == "affine":
            d_transition = after @ before.mT
        else:
            d_transition = after @ transition @ before.mT + after.mT @ transition @ before
        return None, d_transition, after, found[-1] if ctx.direction else found[0], None


def _recursion(act: Callable, transition: Tensor, offset: Tensor, start: Tensor, backward: bool = False) -> Tensor:
    return _Recursion.apply(act, transition, offset.expand(len(transition), *start.shape), start, backward)


class Formulas(NamedTuple):
    """Tensors that have the derivatives, not the values, of the forward pass."""

    closed: Tensor  # A - K C
    covariance: Tensor  # Cov(z_t | x_{1:t-1}), T + 1 entries
    precision: Tensor  # S^-1
    mean: Tensor  # a_t
    innovation: Tensor  # y_t - C a_t
    increments: Tensor


def forward_formulas(s: Solved, model: Canonical) -> Formulas:
    """The forward pass by formulas: tensors with the right derivatives."""
    c, a, r, q = model.blocks()
    steps, groups = s.gain.shape[:2]
    held = (a - s.gain @ c).expand(steps, groups, *a.shape[2:])
    covariance = _recursion(s.engine.congruence, held, q + s.gain @ r @ s.gain.mT, model.initial_covariance)
    spread_c = covariance[:-1] @ c.mT
    # S minus itself: zero, with the derivative of S. The inverse and the gain are then their values plus first-order
    # changes, so no matrix is inverted or factorised again
    change = c @ spread_c + r
    change = change - change.detach()
    fixed = s.inverse.mT @ s.inverse
    precision = fixed - fixed @ change @ fixed
    product = a @ spread_c
    gain = s.gain + (product - product.detach() - s.gain @ change) @ fixed
    closed = (a - gain @ c).expand(steps, groups, *a.shape[2:])
    mean = _recursion(s.engine.affine, closed, gain @ model.y + model.offset, model.initial_mean)[:-1]
    innovation = model.y - c @ mean
    squares = ((precision @ innovation) * innovation).sum(-2, keepdim=True)
    increments = -0.5 * (squares + (fixed * change).sum((-2, -1), keepdim=True))
    return Formulas(closed, covariance, precision, mean, innovation, increments)


def filtered_formulas(s: Solved, model: Canonical) -> list[Tensor]:
    """Tensors with the derivatives of the entries of `filtered`, in their order."""
    f = forward_formulas(s, model)
    return [f.increments, f.mean, f.covariance[:-1], *_update(f, model)]


def _update(f: Formulas, model: Canonical) -> list[Tensor]:
    """Filtered mean and covariance."""
    c, _, _, _ = model.blocks()
    spread_c = f.covariance[:-1] @ c.mT
    covariance = f.covariance[:-1] - spread_c @ f.precision @ spread_c.mT
    return [f.mean + spread_c @ f.precision @ f.innovation, covariance]


def smoothed_formulas(s: Solved, model: Canonical) -> list[Tensor]:
    """Tensors with the derivatives of the entries of `smoothed`, in their order."""
    f = forward_formulas(s, model)
    c, _, _, _ = model.blocks()
    weighted = f.precision @ c
    nothing = torch.zeros_like(model.initial_covariance)
    information = _recursion(s.engine.congruence, f.closed.mT, c.mT @ weighted, nothing, backward=True)
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
    r = _recursion(s.engine.affine, f.closed.mT, pushed, torch.zeros_like(pushed[0]), backward=True)
    return mean + f.covariance[:-1] @ r[:-1]


class _Root(Function):
    """A known root of a covariance, with the gradient of the Cholesky factor; singular directions get none."""

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, root: Tensor) -> Tensor:
        ctx.save_for_backward(root)
        return root.expand(covariance.shape).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # dL = L tril(L^-1 dP L^-T) with half of the diagonal (Murray 2016). A zero column has no inverse: the factor is
        # not differentiable there, and a draw does not move along it
        (root,) = ctx.saved_tensors
        singular = root.diagonal(dim1=-2, dim2=-1) == 0
        regular = root + torch.diag_embed(singular.to(root))
        inner = (regular.mT @ grad).tril()
        inner = inner - 0.5 * torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
        left = torch.linalg.solve_triangular(regular.mT, inner.masked_fill(singular.unsqueeze(-1), 0.0), upper=True)
        found = torch.linalg.solve_triangular(regular, left, upper=False, left=False)
        return (found + found.mT) / 2, None


def draw(model: Canonical, noise_root: Tensor, initial_root: Tensor, steps: int, num: int) -> tuple[Tensor, Tensor]:
    """num draws of z_{1:T} and of C z_t + noise, `(T, P, size, num * D)`, reparameterised."""
    groups, state, sequences = model.initial_mean.shape
    noise_root = _Root.apply(model.noise, noise_root)
    initial_root = _Root.apply(model.initial_covariance, initial_root)
    noise = noise_root @ model.g.new_empty(steps, groups, noise_root.shape[-1], num * sequences).normal_()
    start = initial_root @ model.g.new_empty(groups, state, num * sequences).normal_()
    c, a, _, _ = model.blocks()
    m = model.data_dim
    offset = model.offset if model.offset.shape[-1] == 1 else model.offset.repeat(1, 1, 1, num)
    transition = a.expand(steps, groups, *a.shape[2:])
    start = start + model.initial_mean.repeat(1, 1, num)
    z = _recursion(engine_for(a.device).affine, transition, noise[..., m:, :] + offset, start)[:-1]
    return z, c @ z + noise[..., :m, :]


def smoothed_change(s: Solved, model: Canonical, x: Tensor, num: int) -> Tensor:
    """E[z | y] - E[z | x] for num drawn x of each sequence."""
    # the smoother is affine in the data, so the difference is the smoother of y - x without means and offsets: one pass
    # over the draws in place of two, with the factors of y
    y = model.y.repeat(1, 1, 1, num) - x
    nothing = y.new_zeros(y.shape[1], s.spread.shape[-1], y.shape[-1])
    offset = nothing[:1, :, :1].unsqueeze(0)
    mean, whitened, _ = s.engine.means(s.model.g, s.factor, s.settled, nothing, y.detach(), offset)
    value = smoothed_mean(s, backward(s), mean, whitened, offset)
    if not torch.is_grad_enabled():
        return value
    f = forward_formulas(s, model._replace(y=y, initial_mean=nothing, offset=offset))
    return _with_value(value, smoothed_mean_formula(s, f, model, f.mean, f.innovation))


def _with_value(value: Tensor, formula: Tensor) -> Tensor:
    """The value, with the derivative of the formula."""
    return value + (formula - formula.detach())
