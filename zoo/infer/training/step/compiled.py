"""A loss as one compiled graph."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from zoo.infer.objectives.objective import Part
from zoo.infer.training.step.parts import parts_of
from zoo.parts.aside import buffers_kept, streams_kept
from zoo.parts.checks import element, holds


class Compiled(nn.Module):
    """The result of `compiled`: the loss, and the graph of its value on batches of one shape."""

    def __init__(self, loss: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.parts = parts_of(loss)
        ours, objective = self.parts.ours, self.parts.objective
        if ours and objective.path is not None:
            raise ValueError(
                f"compiled: the gradient of {type(objective).__name__} with `sticking` or `doubly` is shaped outside "
                "the graph; use the plain estimator, or compile=False"
            )
        # Split outside the graph: which rows go into a part is a question about values.
        split = self.parts.split(args, kwargs)
        self.form = _form(split)
        graphed: nn.Module = _OfParts(loss) if ours else _Whole(loss)
        named = {**dict(graphed.named_parameters()), **dict(graphed.named_buffers())}
        self.keys = tuple(named)

        def flat(state: list[Tensor], *tensors: Tensor) -> Tensor:
            return functional_call(graphed, dict(zip(self.keys, state, strict=True)), (_refilled(split, tensors),))

        # Captured below Python: handlers, plates and distributions, at which Dynamo breaks the graph, leave only tensor
        # operations behind. Schedules advance outside the graph; their weight is a tensor, so it stays live.
        try:
            with buffers_kept(loss), streams_kept():
                # The check of a pair looks at values, which a capture does not have, so the pair is checked here.
                with torch.no_grad(), _Observed(_tensors(split)) as observed:
                    graphed(split)
                with pyro.validation_enabled(False), _Constant():
                    graph = make_fx(flat)(list(named.values()), *_tensors(split))
        except RuntimeError as error:
            raise ValueError(
                f"compiled: {_part(error)} cannot be captured, since Python looks at values there ({_first(error)}), "
                "and a graph has none. Masks do so, and Kalman recursions but for log p(x) of all frames: train "
                "without compile"
            ) from error
        self.supports = observed.supports
        # In a list: a module as an attribute would add the graph's constants to the state dict.
        self.graph = [torch.compile(graph, fullgraph=True)]
        self.state = list(named.values())

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        split = self.parts.split(args, kwargs)
        tensors = _tensors(split)
        captured = torch.is_grad_enabled() and _form(split) == self.form
        if not captured or not all(holds(support, tensors[place]) for place, support in self.supports):
            # For a value outside its site's support the loss itself raises the error, which a graph cannot.
            return self.loss(*args, **kwargs)
        if self.parts.ours:
            self.parts.objective.advance()
        return self.graph[0](self.state, *tensors)


def _values(split: list[Part]) -> list[Any]:
    return [value for args, kwargs in split for value in (*args, *kwargs.values())]


def _tensors(split: list[Part]) -> list[Tensor]:
    return [value for value in _values(split) if isinstance(value, Tensor)]


def _form(split: list[Part]) -> list[Any]:
    """Shapes and types of the arguments, with their names and places in the parts."""
    parts = [(len(args), *kwargs) for args, kwargs in split]
    return [parts, *((v.shape, v.dtype) if isinstance(v, Tensor) else v for v in _values(split))]


def _refilled(split: list[Part], tensors: Sequence[Tensor]) -> list[Part]:
    """The parts, with these tensors in the places of theirs."""
    left = iter(tensors)

    def fill(value: Any) -> Any:
        return next(left) if isinstance(value, Tensor) else value

    return [(tuple(map(fill, args)), {name: fill(v) for name, v in kwargs.items()}) for args, kwargs in split]


class _OfParts(nn.Module):
    """The loss of the parts, without `advance`: a graph would hold the schedules as they stood at the capture."""

    loss: Any

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, split: list[Part]) -> Tensor:
        return self.loss.elbo.loss_of_parts(self.loss.model, self.loss.guide, split)


class _Whole(nn.Module):
    """The loss of a batch that is one part."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, split: list[Part]) -> Tensor:
        [(args, kwargs)] = split
        return self.loss(*args, **kwargs)


class _Constant(TorchFunctionMode):
    """Cuts the gradient of all that is computed under `no_grad`."""

    # A graph holds operations, and not the gradient mode in which each of them was called.
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # sizes are tuples too, of a class of their own
        if torch.is_grad_enabled() or isinstance(found, torch.Size):
            return found
        return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, found)


class _Observed(Messenger):
    """Notes which of the arguments a site observes unchanged, and in which support.

    A support whose bounds are tensors is left out: they may depend on parameters, and change after the capture.
    """

    def __init__(self, batch: list[Tensor]) -> None:
        super().__init__()
        self.batch = batch
        self.supports: list[tuple[int, Any]] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not any(isinstance(v, Tensor) for v in vars(element(msg["fn"].support)).values()):
            places = [place for place, value in enumerate(self.batch) if value is msg["value"]]
            self.supports += [(place, msg["fn"].support) for place in places]


def _part(error: BaseException) -> str:
    """The innermost module and function outside torch and Pyro in which an error arose."""
    found, frame = "a function", error.__traceback__
    while frame is not None:
        module, code = frame.tb_frame.f_globals.get("__name__", ""), frame.tb_frame.f_code
        if not module.startswith(("torch", "pyro", "zoo.infer.")):
            owner = frame.tb_frame.f_locals.get("self")
            found = f"{code.co_name} of {module if owner is None else type(owner).__name__}"
        frame = frame.tb_next
    return found


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def compiled(loss: nn.Module, *args: Tensor, **kwargs: Tensor) -> Compiled:
    """`loss` captured on an example batch with `make_fx` and compiled into one graph; it holds the same parameters.

    It helps small networks, whose steps are mostly Python, and latents sampled in a loop; large networks gain a few
    per cent. Compiling takes 2 to 20 seconds for a VAE. A batch of another shape (the last of an epoch) is computed
    without the graph, and so is any batch under `torch.no_grad()`. Decisions of Python are those of the capture: modes
    (train, eval), branches, numbers. The compiler draws noise in a way of its own, so the noise is not that of the
    uncompiled loss.

    Args:
        loss: `objective(model, guide)` with an objective of `zoo.infer` (Pyro's own call `.item()`: no graph).
        *args, **kwargs: an example batch.

    Raises:
        ValueError: the gradient is shaped outside the graph (`sticking`, `doubly`), or a part of the program looks at
            values (masks, Kalman recursions but for log p(x) of all frames); names it.
    """
    return Compiled(loss, args, kwargs)
