"""From tensors whose leading axes broadcast to the layout of the recursions, (time, groups, sequences, ...), and back.

Covariances depend on the parameters and on what is missing, never on the data. So the batch axes fall in two: those
along which A, Q, C, R, P_1 or the mask change make the *groups* (P of them), each with a covariance recursion of its
own; along the others lie the *sequences* (D of them) of a group, which share it.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from torch import Size, Tensor


class Layout:
    """Where the batch axes go.

    Args:
        batch: all batch axes, broadcast.
        group_axes: which of them make the groups.
        steps: T.
        dtype: that of the input, for what goes back.
    """

    def __init__(self, batch: Size, group_axes: tuple[int, ...], steps: int, dtype: torch.dtype) -> None:
        self.batch, self.steps, self.dtype = batch, steps, dtype
        self.order = group_axes + tuple(axis for axis in range(len(batch)) if axis not in group_axes)
        self.group_sizes = [batch[axis] for axis in group_axes]
        self.sequence_sizes = [batch[axis] for axis in self.order[len(group_axes) :]]
        self.groups, self.sequences = math.prod(self.group_sizes), math.prod(self.sequence_sizes)
        self.one_of_each = [size if axis in group_axes else 1 for axis, size in enumerate(batch)]
        self.inverse = sorted(range(len(batch)), key=lambda i: self.order[i])

    def group(self, tensor: Tensor, event: int, *, timed: bool = True, shifted: bool = False) -> Tensor:
        """A parameter that the groups differ in: `(T | 1, P | 1, *event)`, or `(P, *event)` if it has no time axis.

        shifted: entry t is what leads from z_t to z_{t+1}; the last one is not used, and repeats.
        """
        tensor = tensor.double()
        if timed and tensor.ndim == event:
            return tensor[None, None]
        if not timed:
            if tensor.ndim == event:
                return tensor.expand(self.groups, *tensor.shape)
            tensor = tensor.unsqueeze(-event - 1)
        if timed and math.prod(tensor.shape[: -event - 1]) == 1:
            grouped = tensor.reshape(1, *tensor.shape[-event - 1 :])
        else:
            grouped = self._ordered(tensor, event + 1, self.one_of_each).reshape(-1, *tensor.shape[-event - 1 :])
        if not timed:
            return grouped.squeeze(1)
        return _shift(grouped.transpose(0, 1)) if shifted else grouped.transpose(0, 1)

    def spread(self, tensor: Tensor, *, timed: bool = True, shifted: bool = False, shared: bool = False) -> Tensor:
        """A vector of every sequence, as columns: `(T | 1, P, size, D)`, or `(P, size, D)` if it has no time axis.

        shared: P and D may stay 1 where all sequences have the same.
        """
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
        """Indices along the batch axes of a sequence of a group."""
        pairs = ((group, self.group_sizes), (sequence, self.sequence_sizes))
        found = [int(i) for at, sizes in pairs for i in np.unravel_index(at, sizes)]
        return tuple(found[i] for i in self.inverse)

    def back(self, tensor: Tensor, leading: Size = Size()) -> Tensor:  # noqa: B008
        """Columns, `(T, P, size, D)`, to `(*batch, T, size)`; `(T, P, size, draws * D)` to `(*leading, ...)`."""
        return self._back(tensor.movedim(-1, 2), leading)

    def back_matrix(self, tensor: Tensor) -> Tensor:
        """`(T, P, rows, columns)`, of all sequences of a group, to `(*batch, T, rows, columns)`."""
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
        """The gradient of `like` from that of its grouped form, `(T | 1, P, *event)` or `(P, *event)`."""
        return self._gradient(grad, [1] * len(self.sequence_sizes), like, event, timed)

    def vector_gradient(self, grad: Tensor, like: Tensor, *, timed: bool = True) -> Tensor:
        """The gradient of `like` from that of its columns, `(T | 1, P, size, D)` or `(P, size, D)`."""
        return self._gradient(grad.mT, self.sequence_sizes, like, 1, timed)

    def _gradient(self, grad: Tensor, others: list[int], like: Tensor, event: int, timed: bool) -> Tensor:
        if grad.numel() == like.numel() and like.ndim == event:
            return grad.reshape(like.shape).to(like.dtype)
        if like.ndim == event:  # shared by all
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
        """Expanded to `sizes` along the batch axes, those of the groups in front; event counts the time axis."""
        tensor = tensor.expand(*sizes, *tensor.shape[tensor.ndim - event :])
        return tensor.permute(*self.order, *range(len(self.batch), tensor.ndim))


#: Layouts have no state: one for each combination of shapes.
layout_of = lru_cache(maxsize=256)(Layout)


def _shift(tensor: Tensor) -> Tensor:
    return tensor if len(tensor) == 1 else torch.cat([tensor[1:], tensor[-1:]])


def unshift(grad: Tensor) -> Tensor:
    """The gradient of a shifted time axis: the first entry was not used."""
    return grad if len(grad) == 1 else torch.cat([torch.zeros_like(grad[:1]), grad[:-1]])
