"""Climbing to a maximum that a second program can confirm: L-BFGS, followed by Newton's steps on the gradient."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def climb(module: nn.Module, value: Callable[[], Tensor], *, rounds: int = 20, tolerance: float | None = None) -> None:
    """Sets the parameters of the module that require a gradient to a maximum of `value()`, near those they have.

    L-BFGS compares values, so it stops where they no longer differ: at gradients of about 1e-8 in float64, and at
    parameters that are right to half of the digits. Newton's steps on the gradient, with a Hessian from differences of
    it, find the other half; they are for up to 100 entries.

    Args:
        value: a scalar of order 1 for each unit of information, such as nats per observation.
        rounds: of L-BFGS, 50 steps each.
        tolerance: of the largest entry of the gradient; by default 1e-6 in float64, 1e-3 in float32.

    Raises:
        ValueError: nothing requires a gradient.
        RuntimeError: the gradient does not vanish; names the parameter. The parameters are the best that were seen.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    if not parameters:
        raise ValueError("nothing is learned: expected values that are nn.Parameter or PyroParam")

    def gradient() -> Tensor:
        loss = -value()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, found, strict=True):
            p.grad = torch.zeros_like(p) if g is None else g.contiguous()
        return loss.detach()

    best: list[Tensor] = []  # the lowest loss, and where

    def closure() -> Tensor:
        try:
            loss = gradient()
        except ValueError:
            if not best:
                raise
            loss = torch.full_like(best[0], torch.nan)  # the line search went where there is no model
        if not best or loss < best[0]:
            best[:] = [loss, nn.utils.parameters_to_vector(parameters).detach().clone()]
        if torch.isfinite(loss):
            return loss
        for p in parameters:
            p.grad = torch.zeros_like(p)
        return best[0] + 10 * (1 + best[0].abs())

    before = torch.inf
    for _ in range(rounds):
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=50, history_size=20, tolerance_grad=0.0, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimizer.step(closure)
        _assign(parameters, best[1])
        now = best[0].item()
        if not now < before - 1e-13 * abs(now):
            break
        before = now
    _polish(parameters, gradient)
    gradient()
    found = _flat_gradient(parameters)
    for p in parameters:
        p.grad = None
    limit = tolerance or (1e-6 if found.dtype == torch.float64 else 1e-3)
    if not found.abs().max() <= limit:
        sizes = [p.numel() for p in parameters]
        worst = max(range(len(named)), key=lambda i: found.split(sizes)[i].abs().max().nan_to_num(torch.inf).item())
        name = named[worst][0].removesuffix("_unconstrained")
        raise RuntimeError(
            f"{name}: no maximum was reached, the largest entry of the gradient is "
            f"{found.split(sizes)[worst].abs().max():.3g} (expected at most {limit:g})"
        )


@torch.no_grad()
def _polish(parameters: Sequence[Tensor], gradient: Callable[[], Tensor], *, steps: int = 4, most: int = 100) -> None:
    """Newton's steps, kept as long as the gradient falls."""
    at = nn.utils.parameters_to_vector(parameters)
    if len(at) > most or at.dtype != torch.float64:
        return

    def here(where: Tensor) -> Tensor:
        _assign(parameters, where)
        with torch.enable_grad():
            gradient()
        return _flat_gradient(parameters)

    try:
        now = here(at)
        for _ in range(steps):
            moves = torch.diag(1e-5 * at.abs().clamp(min=1.0))
            hessian = torch.stack([(here(at + m) - here(at - m)) / (2 * m.sum()) for m in moves])
            if not torch.isfinite(hessian).all():
                break
            values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
            flat = values <= 1e-10 * values.abs().max()  # directions that the value does not depend on
            new = at - vectors @ torch.where(flat, 0.0, (vectors.mT @ now) / torch.where(flat, 1.0, values))
            then = here(new)
            if not then.abs().max() < now.abs().max():
                break
            at, now = new, then
    except ValueError:  # a matrix that must be symmetric has no derivative in each entry alone
        pass
    _assign(parameters, at)


@torch.no_grad()
def _assign(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """A copy: `torch.nn.utils.vector_to_parameters` would make them views of the vector."""
    for p, value in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.copy_(value.view_as(p))


def _flat_gradient(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters])
