"""The kernels as functions of a `Problem` whose sequences each have covariances of their own.

None in place of a result: P_1, Q or R is no covariance, or the likelihood is not finite. Another engine then finds out
the reason, so that its words are written once.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.parts.kalman.given import Problem

_EVENTS = (1, 2, 2, 2, 1, 2, 2, 1)  # axes without time and batch of the inputs: m_1, P_1, A, Q, c, C, R, y
_ORDER = (0, 1, 2, 3, 7, 4, 5, 6)  # their places in `Tensors`


class Call:
    """The inputs of a kernel for a problem."""

    #: bytes of the history of a block, of which there is one at a time; a longer one is cut, and run through twice
    history = 2**22

    def __init__(self, problem: Problem) -> None:
        grouping, tensors = problem.grouping, problem.tensors
        (n, m), b = tensors.emission_matrix.mT.shape[-2:], tensors.offset
        self.grouping, self.mask, self.sizes = grouping, problem.mask, (grouping.groups, grouping.steps, n, m)
        timed = (*tensors[2:4], tensors.initial_mean.new_zeros(n) if b is None else b, *tensors[4:7])
        seen = torch.ones(1, 1, m, dtype=torch.float64) if problem.mask is None else problem.mask.transpose(0, 1)
        inputs = [grouping.rows(a, event, timed=False) for a, event in zip(tensors[:2], _EVENTS[:2], strict=True)]
        inputs += [grouping.rows(a, event) for a, event in zip(timed, _EVENTS[2:], strict=True)]
        self.inputs = [_readable(a) for a in (*inputs, seen)]

    def run(self, kernel: Callable, results: Sequence[Tensor | None], *more: Tensor, chunked: bool = False) -> bool:
        """Fills the results, `(P, T | 1, *event)`; False where the kernel found no covariance.

        more: inputs after those of all kernels. chunked: the kernel passes forward alone, chunk by chunk.
        """
        from zoo.parts.kalman.engines.lanes.work import CHUNK, WIDTH, count_numbers, letters

        _, steps, n, m = self.sizes
        chunks = 0 if chunked else self.history // (8 * WIDTH * CHUNK * (n + m) * (n + m + 1))
        segment = CHUNK * max(1, min(chunks, -(-steps // CHUNK)))
        sizes = letters(n, m, segment, -(-steps // segment))
        scratch = torch.empty(count_numbers(sizes), dtype=torch.float64)
        tables = _table([*self.inputs, *more]), _table(results)
        rounding = torch.finfo(self.grouping.dtype).eps
        return kernel(*tables, (*self.sizes, segment), tuple(sizes.values()), rounding, scratch.data_ptr())

    def new(self, *events: tuple[int, ...]) -> list[Tensor]:
        """Results for each sequence and frame, in the dtype of the caller."""
        return [torch.empty(*self.sizes[:2], *event, dtype=self.grouping.dtype) for event in events]

    def constant(self) -> Tensor:
        """The constants of the log-likelihoods, `(T, P)`; a missing coordinate has none, since it would add no more."""
        groups, steps, _, m = self.sizes
        seen = torch.tensor(m, dtype=torch.float64) if self.mask is None else self.mask.sum(-1)
        return 0.5 * math.log(2 * math.pi) * seen.expand(steps, groups)


def _readable(tensor: Tensor) -> Tensor:
    """Rows whose frames follow one another, in a dtype that kernels read."""
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.double()
    return tensor if tensor[0].is_contiguous() else tensor.contiguous()


def _table(rows: Sequence[Tensor | None]) -> np.ndarray:
    """A line of integers for each tensor, in the columns of `lanes.memory`; zeros where there is none."""
    lines: list[int] = []
    for tensor in rows:
        if tensor is None or tensor.numel() == 0:
            lines += (0, 0, 0, 8, 0)
            continue
        (count, length), size, bytes_of = tensor.shape[:2], tensor[0, 0].numel(), tensor.element_size()
        stride = tensor.stride(0) * bytes_of if count > 1 else 0
        lines += (tensor.data_ptr(), stride, size if length > 1 else 0, bytes_of, count - 1)
    return np.array(lines).reshape(len(rows), 5)


def loglik(problem: Problem) -> Tensor | None:
    """log p(x) of each sequence, `(P,)`."""
    from zoo.parts.kalman.engines.lanes.forward import likelihood

    call = Call(problem)
    total = torch.empty(call.sizes[0], 1, 1, dtype=torch.float64)
    return _checked(call.run(likelihood, [total]), call, total)


def _checked(fine: bool, call: Call, total: Tensor) -> Tensor | None:
    """The log-likelihoods with their constants, if there are such."""
    found = total.flatten() - call.constant().sum(0)
    return found if fine and math.isfinite(found.sum()) else None


def filtered(problem: Problem) -> list[Tensor] | None:
    """Values of `Filtered`, as `zoo.parts.kalman.moments.filtered` has them."""
    from zoo.parts.kalman.engines.lanes.moments import filtering

    call = Call(problem)
    groups, steps, n, _ = call.sizes
    results = [torch.empty(groups, steps, 1, dtype=torch.float64), *call.new((n,), (n, n), (n,), (n, n))]
    if not call.run(filtering, results, chunked=True):
        return None
    increments = results[0].transpose(0, 1).unsqueeze(-1) - call.constant()[..., None, None]
    return [increments, *map(_laid_out, results[1:])] if math.isfinite(increments.sum()) else None


def smoothed(problem: Problem) -> list[Tensor] | None:
    """Values of `Smoothed`, as in `zoo.parts.kalman.moments.smoothed`, with one sum in place of the increments."""
    from zoo.parts.kalman.engines.lanes.moments import smoothing

    call = Call(problem)
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
    """The gradient of sum weight * log p(x) by those of the problem's tensors that are wanted.

    weight: in the caller's batch axes.
    """
    from zoo.parts.kalman.engines.lanes.adjoint import gradient

    call = Call(problem)
    groups, steps, n, m = call.sizes
    events = (n,), (n, n), (n, n), (n, n), (n,), (m, n), (m, m), (m,)
    lengths = [1, 1, *(steps if i in (4, 7) or len(call.inputs[i][0]) > 1 else 1 for i in range(2, 8))]
    results: list[Tensor | None] = []
    for place, length, event in zip(_ORDER, lengths, events, strict=True):
        like, shape = problem.tensors[place], (groups, length, *event)
        # summed in float64 where sequences or times share it
        dtype = like.dtype if like is not None and like.numel() == math.prod(shape) else torch.float64
        results.append(torch.empty(shape, dtype=dtype) if wanted[place] else None)
    for found in results[2:5]:
        if found is not None:
            found[:, 0] = 0.0  # nothing leads into the first frame
    rows = problem.grouping.spread(weight.unsqueeze(-1), timed=False).reshape(-1, 1, 1)
    call.run(gradient, [*results, torch.empty(groups, 1, 1, dtype=torch.float64)], rows)
    grads: list[Tensor | None] = [None] * len(results)
    for i, (place, found) in enumerate(zip(_ORDER, results, strict=True)):
        like = problem.tensors[place]
        if found is not None and like is not None:
            laid_out = found.transpose(0, 1) if i > 1 else found.squeeze(1)
            grads[place] = problem.grouping.matrix_gradient(laid_out, like, _EVENTS[i], timed=i > 1)
    return grads
