"""Tensors that can be differentiated once, for functions whose gradient comes from a recursion of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def differentiable_once(tensor: Tensor) -> Tensor:
    """The tensor, whose gradient cannot be differentiated again: a second derivative raises a RuntimeError."""
    # torch's `once_differentiable` leaves the gradient of a plain sum without a graph: a term of a second derivative
    # would then be missing without a word, where other terms have one
    return _Once.apply(tensor)


class Refusal(Function):
    """A first derivative that cannot be differentiated again; the other tensors are those it depends on."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *tensors: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        raise RuntimeError(
            "zoo.parts: a second derivative was asked for; exact recursions have first derivatives only (for a Hessian "
            "take finite differences of the gradient)"
        )


class _Once(Function):
    """See `differentiable_once`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.save_for_backward(tensor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Refusal.apply(grad, *ctx.saved_tensors) if torch.is_grad_enabled() else grad
