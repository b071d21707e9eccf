"""From tensors whose leading axes broadcast to the layout of the recursions, (time, groups, sequences, ...), and back.

Covariances depend on the parameters and on what is missing, never on the data. So the batch axes fall in two: those
along which A, Q, C, R, P_1 or the mask change make the *groups* (P of them), each with a covariance recursion of its
own; along the others lie the *sequences* (D of them) of a group, which share it.
"""

import math
from typing import NamedTuple

import torch
from torch import Size, Tensor


class Layout(NamedTuple):
    """batch: all batch axes, broadcast; group_axes: which of them make the groups; steps: T; dtype: of the input."""

    batch: Size
    group_axes: tuple[int, ...]
    steps: int
    dtype: torch.dtype

    @property
    def order(self) -> tuple[int, ...]:
        """The batch axes with those of the groups in front."""
        return self.group_axes + tuple(axis for axis in range(len(self.batch)) if axis not in self.group_axes)

    @property
    def sizes(self) -> tuple[int, int]:
        """P and D."""
        groups = math.prod(self.batch[axis] for axis in self.group_axes)
        return groups, math.prod(self.batch[axis] for axis in range(len(self.batch)) if axis not in self.group_axes)

    def group(self, tensor: Tensor, event: int, *, timed: bool = True, shifted: bool = False) -> Tensor:
        """A parameter that the groups differ in: `(T | 1, P | 1, *event)`, or `(P, *event)` if it has no time axis.

        shifted: entry t is what leads from z_t to z_{t+1}; the last one is not used, and repeats.
        """
        tensor = tensor.to(torch.float64)
        if timed and tensor.ndim == event:
            return tensor.unsqueeze(0).unsqueeze(0)
        if not timed:
            tensor = tensor.unsqueeze(-event - 1)
        batch, rest = self._aligned(tensor, event + 1)
        if batch.numel() == 1 and timed:
            grouped = rest.reshape(1, *rest.shape[-event - 1 :])
        else:
            shape = [size if axis in self.group_axes else 1 for axis, size in enumerate(self.batch)]
            grouped = rest.expand(*shape, *rest.shape[len(shape) :]).permute(self._permutation(event + 1))
            grouped = grouped.reshape(self.sizes[0], *rest.shape[-event - 1 :])
        grouped = grouped.transpose(0, 1)
        return (_shift(grouped) if shifted else grouped) if timed else grouped.squeeze(0)

    def spread(self, tensor: Tensor, *, timed: bool = True, shifted: bool = False, shared: bool = False) -> Tensor:
        """A vector of every sequence: `(T | 1, P, D, size)`, or `(P, D, size)` if it has no time axis.

        shared: P and D may stay 1 where all sequences have the same.
        """
        tensor = tensor.to(torch.float64)
        if not timed:
            tensor = tensor.unsqueeze(-2)
        elif tensor.ndim == 1:
            tensor = tensor.unsqueeze(0)
        batch, rest = self._aligned(tensor, 2)
        if batch.numel() == 1 and shared:
            spread = rest.reshape(1, 1, *rest.shape[-2:])
        else:
            spread = rest.expand(*self.batch, *rest.shape[-2:]).permute(self._permutation(2))
            spread = spread.reshape(*self.sizes, *rest.shape[-2:])
        spread = spread.permute(2, 0, 1, 3)
        return (_shift(spread) if shifted else spread) if timed else spread.squeeze(0)

    def back(self, tensor: Tensor, leading: Size = Size()) -> Tensor:  # noqa: B008
        """`(T, P, D, *event)` to `(*batch, T, *event)`; D = 1 where all sequences of a group are alike.

        With `leading` axes of draws, `(T, P, draws * D, *event)` to `(*leading, *batch, T, *event)`.
        """
        tensor = tensor.to(self.dtype)
        groups = [self.batch[axis] for axis in self.group_axes]
        others = [self.batch[axis] for axis in self.order[len(groups) :]]
        if tensor.shape[2] != math.prod(leading) * self.sizes[1]:
            tensor = tensor.expand(*tensor.shape[:2], self.sizes[1], *tensor.shape[3:])
        tensor = tensor.reshape(len(tensor), *groups, *leading, *others, *tensor.shape[3:])
        front = range(1 + len(groups), 1 + len(groups) + len(leading))
        places = [*range(1, 1 + len(groups)), *range(front.stop, front.stop + len(others))]
        batch = [place for _, place in sorted(zip(self.order, places, strict=True))]
        return tensor.permute(*front, *batch, 0, *range(1 + len(places) + len(front), tensor.ndim))

    def gradient(self, grad: Tensor, like: Tensor, event: int, *, grouped: bool, timed: bool = True) -> Tensor:
        """The gradient of `like` from that of its grouped or spread form, whose last step is not used if it was shifted.

        grad: `(T | 1, P, *event)`, `(T | 1, P, D, *event)`, or those without the time axis.
        """
        if not timed:
            grad = grad.unsqueeze(0)
        groups = [self.batch[axis] for axis in self.group_axes]
        others = [1 if grouped else self.batch[axis] for axis in self.order[len(groups) :]]
        size = grad.shape[grad.ndim - event :]
        grad = grad.reshape(len(grad), *groups, *others, *size)
        back = sorted(range(len(self.batch)), key=lambda i: self.order[i])
        grad = grad.permute(*(1 + i for i in back), 0, *range(1 + len(self.batch), grad.ndim))
        if not timed:
            grad = grad.squeeze(-event - 1)
        missing = grad.ndim - like.ndim
        shape = (1,) * missing + tuple(like.shape) if missing >= 0 else tuple(like.shape)
        return grad.sum_to_size(shape).reshape(like.shape).to(like.dtype)

    def _aligned(self, tensor: Tensor, event: int) -> tuple[Size, Tensor]:
        """The tensor with all batch axes, of length 1 where it had none; event counts the time axis."""
        batch = tensor.shape[: tensor.ndim - event]
        filled = (1,) * (len(self.batch) - len(batch)) + tuple(batch)
        return Size(filled), tensor.reshape(*filled, *tensor.shape[tensor.ndim - event :])

    def _permutation(self, event: int) -> list[int]:
        return [*self.order, *range(len(self.batch), len(self.batch) + event)]


def _shift(tensor: Tensor) -> Tensor:
    return tensor if len(tensor) == 1 else torch.cat([tensor[1:], tensor[-1:]])


def unshift(grad: Tensor) -> Tensor:
    """The gradient of a shifted time axis: the first entry was not used."""
    return grad if len(grad) == 1 else torch.cat([torch.zeros_like(grad[:1]), grad[:-1]])
