"""The kernels as functions of a `Problem` whose sequences each have covariances of their own.

None in place of a result: P_1, Q or R is no covariance, or the likelihood is not finite. Another engine then finds out
the reason, so that its words are written once.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.parts.kalman.given import Problem
from zoo.parts.kalman.layout import Grouping

_EVENTS = (1, 2, 2, 2, 2, 2, 1, 1)  # axes of the fields of `Tensors` without time and batch
_HISTORY = 2**21  # bytes of the history of a block


class _Call:
    """The inputs of a kernel for a problem: a table of rows, and the tensors that they lie in."""

    def __init__(self, problem: Problem) -> None:
        grouping, tensors = problem.grouping, problem.tensors
        m = tensors.emission_matrix.shape[-2]
        self.grouping, self.mask = grouping, problem.mask
        self.sizes = grouping.groups, grouping.steps, tensors.initial_mean.shape[-1], m
        offset = tensors.initial_mean.new_zeros(self.sizes[2]) if tensors.offset is None else tensors.offset
        inputs = [
            grouping.rows(tensor, event, timed=i > 1)
            for i, (tensor, event) in enumerate(zip((*tensors[:7], offset), _EVENTS, strict=True))
        ]
        seen = torch.ones(1, 1, m, dtype=torch.float64) if problem.mask is None else problem.mask.transpose(0, 1)
        self.inputs = [_readable(tensor) for tensor in (*inputs, seen)]

    def run(self, kernel: Callable, results: list[Tensor | None], more: tuple[Tensor, ...] = ()) -> bool:
        """Fills the results, `(P, T | 1, *event)`; False where the kernel found no covariance."""
        _, steps, n, m = self.sizes
        k = n + m
        frame = 64 * (k * k + k)
        segment = 8 * max(1, min(_HISTORY // (8 * frame), -(-steps // 8)))
        size = frame * (segment + 2 + -(-steps // segment)) + 64 * (300 * k * k + 300 * k)
        scratch = torch.empty(size // 8, dtype=torch.float64)
        pool = np.array([scratch.data_ptr(), scratch.data_ptr() + size])
        rounding = torch.finfo(self.grouping.dtype).eps
        return kernel(_table((*self.inputs, *more)), _table(results), (*self.sizes, segment), rounding, pool)

    def new(self, *events: tuple[int, ...]) -> list[Tensor]:
        """Results for each sequence and frame, in the dtype of the caller."""
        return [torch.empty(*self.sizes[:2], *event, dtype=self.grouping.dtype) for event in events]

    def constant(self) -> Tensor:
        """The constants of the log-likelihoods, `(T, P)`: a missing coordinate adds no more than them, so it has none."""
        groups, steps, _, m = self.sizes
        seen = torch.tensor(m, dtype=torch.float64) if self.mask is None else self.mask.sum(-1)
        return 0.5 * math.log(2 * math.pi) * seen.expand(steps, groups)


def _readable(tensor: Tensor) -> Tensor:
    """Rows whose frames follow one another, in a dtype that kernels read."""
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.double()
    return tensor if tensor[0].is_contiguous() else tensor.contiguous()


def _table(rows: tuple[Tensor, ...] | list[Tensor | None]) -> np.ndarray:
    """A line of integers for each tensor, as `memory.Rows` has them."""
    lines: list[int] = []
    for tensor in rows:
        if tensor is None or tensor.numel() == 0:
            lines += (0, 0, 0, 8, 0)
            continue
        step = tensor[0, 0].numel() if tensor.shape[1] > 1 else 0
        stride = tensor.stride(0) * tensor.element_size() if len(tensor) > 1 else 0
        lines += (tensor.data_ptr(), stride, step, tensor.element_size(), len(tensor) - 1)
    return np.array(lines).reshape(len(rows), 5)


def loglik(problem: Problem) -> Tensor | None:
    """log p(x) of each sequence, `(P,)`."""
    from zoo.parts.kalman.engines.lanes.forward import likelihood

    call = _Call(problem)
    total = torch.empty(call.sizes[0], 1, 1, dtype=torch.float64)
    return _checked(call.run(likelihood, [total]), call, total)


def _checked(fine: bool, call: _Call, total: Tensor) -> Tensor | None:
    """The log-likelihoods with their constants, if there are such."""
    found = total.flatten() - call.constant().sum(0)
    return found if fine and math.isfinite(found.sum()) else None


def filtered(problem: Problem) -> list[Tensor] | None:
    """Values of `Filtered`, as `zoo.parts.kalman.moments.filtered` has them."""
    from zoo.parts.kalman.engines.lanes.moments import filtering

    call = _Call(problem)
    groups, steps, n, _ = call.sizes
    results = [torch.empty(groups, steps, 1, dtype=torch.float64), *call.new((n,), (n, n), (n,), (n, n))]
    if not call.run(filtering, results):
        return None
    increments = results[0].transpose(0, 1).unsqueeze(-1) - call.constant()[..., None, None]
    return [increments, *map(_laid_out, results[1:])] if math.isfinite(increments.sum()) else None


def smoothed(problem: Problem) -> list[Tensor] | None:
    """Values of `Smoothed`, as `zoo.parts.kalman.moments.smoothed` has them, with one sum in place of the increments."""
    from zoo.parts.kalman.engines.lanes.moments import smoothing

    call = _Call(problem)
    groups, steps, n, _ = call.sizes
    total = torch.empty(groups, 1, 1, dtype=torch.float64)
    cross = torch.empty(groups, steps - 1, n, n, dtype=call.grouping.dtype)
    results = [*call.new((n,), (n, n), (n,), (n, n)), cross]
    found = _checked(call.run(smoothing, [total, *results]), call, total)
    return None if found is None else [found[None, :, None, None], *map(_laid_out, results)]


def _laid_out(result: Tensor) -> Tensor:
    """`(P, T, *event)` in the layout of the recursions; a vector is a column."""
    result = result.transpose(0, 1)
    return result.unsqueeze(-1) if result.ndim == 3 else result


def score(problem: Problem, weight: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """The gradient of sum_p weight_p log p(x_p) by the wanted tensors.

    Args:
        weight: `(P,)`, float64.
        wanted: for each of the tensors.
    """
    from zoo.parts.kalman.engines.lanes.adjoint import gradient

    call, tensors = _Call(problem), problem.tensors
    groups, steps, n, m = call.sizes
    lengths = [steps if tensor.shape[1] > 1 else 1 for tensor in call.inputs[:8]]
    lengths[6:] = steps, steps
    results: list[Tensor | None] = []
    for like, length, event, need in zip(tensors, lengths, ((n,), (n, n), (n, n), (n, n), (m, n), (m, m), (m,), (n,)), wanted, strict=True):
        # in float64 where it is to be summed over sequences, or over time
        own = like is not None and like.numel() == groups * length * math.prod(event)
        results.append(torch.empty(groups, length, *event, dtype=like.dtype if own else torch.float64) if need else None)
    for i in (2, 3, 7):
        # nothing leads into the first frame
        if results[i] is not None and lengths[i] > 1:
            results[i][:, 0] = 0.0
    total = torch.empty(groups, 1, 1, dtype=torch.float64)
    call.run(gradient, [*results, total], (weight[:, None, None],))
    grouping = problem.grouping
    return [
        None if found is None else _gradient(grouping, found, like, event, timed=i > 1)
        for i, (found, like, event) in enumerate(zip(results, tensors, _EVENTS, strict=True))
    ]


def _gradient(grouping: Grouping, found: Tensor, like: Tensor, event: int, timed: bool) -> Tensor:
    return grouping.matrix_gradient(found.transpose(0, 1) if timed else found.squeeze(1), like, event, timed=timed)
