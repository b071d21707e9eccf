"""The layout of the recursions, (time, groups, sequences, ...): the way from the caller's batch axes there and back.

Covariances depend on the parameters and on the mask, never on the data. So the batch axes are of two kinds. Those along
which A, Q, C, R, P_1 or the mask change make the *groups* (P of them): a group has a covariance recursion of its own.
Along the other axes lie the *sequences* of a group (D of them), which share that recursion.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Size, Tensor


class Grouping:
    """The batch axes cut into groups and sequences; moves tensors into the layout of the recursions and back.

    Args:
        batch: all batch axes, broadcast.
        group_axes: indices of the axes that make the groups, ascending.
        steps: T.
        dtype: dtype of the input; results get it back. Inside everything is float64: it costs little at these sizes,
            and float32 input keeps all of its digits where a recursion in float32 loses them (small R, diffuse starts).
    """

    def __init__(self, batch: Size, group_axes: tuple[int, ...], steps: int, dtype: torch.dtype) -> None:
        self.batch, self.steps, self.dtype = batch, steps, dtype
        # groups first: each of the two kinds of axes becomes one axis by a reshape
        self.order = group_axes + tuple(axis for axis in range(len(batch)) if axis not in group_axes)
        self.group_sizes = [batch[axis] for axis in group_axes]
        self.sequence_sizes = [batch[axis] for axis in self.order[len(group_axes) :]]
        self.groups, self.sequences = math.prod(self.group_sizes), math.prod(self.sequence_sizes)
        self.one_of_each = [size if axis in group_axes else 1 for axis, size in enumerate(batch)]
        self.inverse = sorted(range(len(batch)), key=lambda i: self.order[i])

    def group(self, tensor: Tensor, event: int, *, timed: bool = True, shifted: bool = False) -> Tensor:
        """A parameter that only groups differ in: `(T | 1, P | 1, *event)`, or `(P, *event)` if it has no time axis.

        shifted: moves entry t + 1, which leads from z_t to z_{t+1}, to place t; the last place repeats, unused.
        """
        if not timed and tensor.ndim == event:
            return tensor.double().expand(self.groups, *tensor.shape)
        rows = self.rows(tensor.double(), event, timed=timed)
        if not timed:
            return rows.squeeze(1).expand(self.groups, *rows.shape[2:])
        return _shift(rows.transpose(0, 1)) if shifted else rows.transpose(0, 1)

    def rows(self, tensor: Tensor, event: int, *, timed: bool = True) -> Tensor:
        """A tensor that only groups differ in, the groups first: `(P | 1, T | 1, *event)`, of length 1 without time."""
        if timed and tensor.ndim == event:
            return tensor[None, None]
        if not timed:
            tensor = tensor.unsqueeze(-event - 1)
        # a parameter that all groups share keeps one group: the engines read it P times, it is not copied P times
        if math.prod(tensor.shape[: -event - 1]) == 1:
            return tensor.reshape(1, *tensor.shape[-event - 1 :])
        return self._ordered(tensor, event + 1, self.one_of_each).reshape(-1, *tensor.shape[-event - 1 :])

    def spread(self, tensor: Tensor, *, timed: bool = True, shifted: bool = False, shared: bool = False) -> Tensor:
        """A vector of every sequence, as columns: `(T | 1, P, size, D)`, or `(P, size, D)` if it has no time axis.

        shared: leaves P and D at 1 where all sequences have the same vector.
        """
        # columns, not rows: a matrix times all vectors of a group is one product, and the inner loops of the compiled
        # engine run along D, which is contiguous
        tensor = tensor.double()
        if not timed and tensor.ndim == 1:
            return tensor.unsqueeze(-1).expand(self.groups, len(tensor), self.sequences)
        if not timed or tensor.ndim == 1:
            tensor = tensor.unsqueeze(-2)
        if shared and math.prod(tensor.shape[:-2]) == 1:
            spread = tensor.reshape(1, 1, *tensor.shape[-2:])
        else:
            spread = self._ordered(tensor, 2, self.batch).reshape(self.groups, self.sequences, *tensor.shape[-2:])
        if not timed:
            return spread.squeeze(2).mT
        spread = spread.permute(2, 0, 3, 1)
        return _shift(spread) if shifted else spread

    def place(self, group: int, sequence: int) -> tuple[int, ...]:
        """Indices of a sequence along the caller's batch axes, from its group and its place in the group."""
        pairs = ((group, self.group_sizes), (sequence, self.sequence_sizes))
        found = [int(i) for at, sizes in pairs for i in np.unravel_index(at, sizes)]
        return tuple(found[i] for i in self.inverse)

    def back(self, tensor: Tensor, leading: Size = Size()) -> Tensor:  # noqa: B008
        """Columns `(T, P, size, num * D)` to `(*leading, *batch, T, size)`; num: number of entries of `leading`."""
        return self._back(tensor.movedim(-1, 2), leading)

    def back_matrix(self, tensor: Tensor) -> Tensor:
        """Matrices that a group's sequences share, `(T, P, rows, columns)`, to `(*batch, T, rows, columns)`."""
        tensor = tensor.to(self.dtype).unsqueeze(2)
        return self._back(tensor.expand(*tensor.shape[:2], self.sequences, *tensor.shape[3:]), Size())

    def _back(self, tensor: Tensor, leading: Size) -> Tensor:
        tensor = tensor.to(self.dtype)
        tensor = tensor.reshape(len(tensor), *self.group_sizes, *leading, *self.sequence_sizes, *tensor.shape[3:])
        groups = 1 + len(self.group_sizes)
        places = [*range(1, groups), *range(groups + len(leading), 1 + len(self.batch) + len(leading))]
        batch = [places[i] for i in self.inverse]
        event = range(1 + len(self.batch) + len(leading), tensor.ndim)
        return tensor.permute(*range(groups, groups + len(leading)), *batch, 0, *event)

    def matrix_gradient(self, grad: Tensor, like: Tensor, event: int = 2, *, timed: bool = True) -> Tensor:
        """The gradient by `like` from the gradient by its grouped form, `(T | 1, P, *event)` or `(P, *event)`."""
        return self._gradient(grad, [1] * len(self.sequence_sizes), like, event, timed)

    def vector_gradient(self, grad: Tensor, like: Tensor, *, timed: bool = True) -> Tensor:
        """The gradient by `like` from the gradient by its columns, `(T | 1, P, size, D)` or `(P, size, D)`."""
        return self._gradient(grad.mT, self.sequence_sizes, like, 1, timed)

    def _gradient(self, grad: Tensor, others: list[int], like: Tensor, event: int, timed: bool) -> Tensor:
        if grad.numel() == like.numel() and like.ndim == event:
            return grad.reshape(like.shape).to(like.dtype)
        # no leading axes: all groups, sequences and times read this parameter, so its gradient sums over all of them
        if like.ndim == event:
            return grad.sum(tuple(range(grad.ndim - event))).to(like.dtype)
        if not timed:
            grad = grad.unsqueeze(0)
        grad = grad.reshape(len(grad), *self.group_sizes, *others, *grad.shape[grad.ndim - event :])
        grad = grad.permute(*(1 + i for i in self.inverse), 0, *range(1 + len(self.batch), grad.ndim))
        if not timed:
            grad = grad.squeeze(-event - 1)
        shape = (1,) * (grad.ndim - like.ndim) + tuple(like.shape)
        return grad.sum_to_size(shape).reshape(like.shape).to(like.dtype)

    def _ordered(self, tensor: Tensor, event: int, sizes: Iterable[int]) -> Tensor:
        """The tensor expanded to `sizes` along the batch axes, the groups' in front; event counts the time axis."""
        tensor = tensor.expand(*sizes, *tensor.shape[tensor.ndim - event :])
        return tensor.permute(*self.order, *range(len(self.batch), tensor.ndim))


def _shift(tensor: Tensor) -> Tensor:
    return tensor if len(tensor) == 1 else torch.cat([tensor[1:], tensor[-1:]])


def unshift(grad: Tensor) -> Tensor:
    """The gradient along the time axis, shifted back; zero at the first entry, which was not used."""
    return grad if len(grad) == 1 else torch.cat([torch.zeros_like(grad[:1]), grad[:-1]])
