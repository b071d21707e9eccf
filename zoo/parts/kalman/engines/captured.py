"""log p(x) as one operation of a captured graph, which computes it by the recursions as they are.

A capture (`zoo.infer`'s `fit(compile=True)`) records tensor operations and has no values, and the recursions look at
values and run outside torch. As an operation of torch's registry they stand in the graph as one node, value and
gradient, and the networks around them are compiled.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from zoo.parts.kalman.derivatives import MarginalLoglik, loglik
from zoo.parts.kalman.engines import lanes_for
from zoo.parts.kalman.given import Problem, prepare
from zoo.parts.kalman.parameters import Parameters


def is_capturing() -> bool:
    """Tells whether operations are being recorded for a graph."""
    return get_proxy_mode() is not None


def marginal_loglik_in_graph(problem: Problem, dtype: torch.dtype) -> Tensor:
    """log p(x) of a problem without missing values."""
    # a registered operation takes tensors, not a `Problem`: it prepares its own, in the recursions' precision
    tensors = [a.double() for a in problem.tensors if a is not None]
    return _value(tensors).to(dtype)


class _Context(SimpleNamespace):
    """The place of autograd's context, for the two halves of `MarginalLoglik` outside autograd."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


def _prepared(tensors: list[Tensor]) -> Problem:
    # the offset, where there is one, is B u + b
    offset = tensors[7] if tensors[7:] else None
    return prepare(Parameters(*tensors[:6])._replace(transition_bias=offset), tensors[6], None, None)


@torch.library.custom_op("zoo::marginal_loglik", mutates_args=())
def _value(tensors: list[Tensor]) -> Tensor:
    return loglik(_prepared(tensors)).clone()


@_value.register_fake
def _(tensors: list[Tensor]) -> Tensor:
    return tensors[6].new_empty(_prepared(tensors).grouping.batch)


@torch.library.custom_op("zoo::marginal_loglik_gradient", mutates_args=())
def _gradient(tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    problem = _prepared(tensors)
    wanted = tuple(a is not None for a in problem.tensors)
    if (lanes := lanes_for(problem)) is not None:
        found: Any = lanes.score(problem, grad, wanted)
    else:
        inputs: Any = problem.tensors
        # run again, since a node of a graph hands on tensors alone: the factors of the first run are gone
        ctx = _Context(needs_input_grad=[False, *wanted])
        MarginalLoglik.forward(ctx, problem, *inputs)
        found = MarginalLoglik.backward(ctx, grad)[1:]
    return [a.clone(memory_format=torch.contiguous_format) for a in found if a is not None]


@_gradient.register_fake
def _(tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [a.new_empty(a.shape) for a in tensors]


def _set_up(ctx: Any, inputs: tuple[list[Tensor]], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[0])


def _backward(ctx: Any, grad: Tensor) -> list[Tensor]:
    return _gradient(list(ctx.saved_tensors), grad)


_value.register_autograd(_backward, setup_context=_set_up)
