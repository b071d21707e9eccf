"""The door of the methods of models and guides, such as `log_prob(x)`: opened once, for the class."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from zoo.parts.checks.rows import parameter_of
from zoo.parts.door.arguments import CONDITIONS, LISTED, wanted_by
from zoo.parts.door.datasets import is_collection, loaded
from zoo.parts.door.tables import refuse_another_order

# methods that a user calls with data of his own. Those that a program calls at each step of time are not among them,
# nor is `forward`, which is the program: Pyro's routines hand it tensors
METHODS = (
    *("log_prob", "posterior", "responsibilities", "viterbi", "predict", "classifier", "per_datum", "reconstruct"),
    *("generate", "forecast", "sample_forecast", "impute", "sample_imputation"),
    *("exact_sample", "exact_draws", "exact_forecast", "exact_imputation"),
    *("initialise", "e_step", "maximum_likelihood", "summary", "residuals", "components"),
)


def open_methods(kind: type) -> None:
    """Opens the door of every method of `METHODS` that a class has: x, u, y, c, mask and first may come in any form."""
    for name in METHODS:
        method = getattr(kind, name, None)
        if callable(method) and not hasattr(method, "opened_for"):
            places = [(place, argument) for place, argument in enumerate(signature(method).parameters)
                      if argument in LISTED]  # fmt: skip
            if places:
                setattr(kind, name, _opened(method, places))


def _opened(method: Callable[..., Any], places: list[tuple[int, str]]) -> Callable[..., Any]:
    @wraps(method)
    def opened(*args: Any, **kwargs: Any) -> Any:
        given = {name: args[place] for place, name in places if place < len(args)}
        given |= {name: kwargs[name] for _, name in places if name in kwargs}
        if _ready(args[0], given):
            return method(*args, **kwargs)
        wanted = wanted_by(args[0], getattr(args[0], "model", None))
        if is_collection(given.get("x")):
            yields = loaded(given["x"], wanted.names, wanted.more, "x")
            given |= dict(zip(wanted.names, yields, strict=False))
        refuse_another_order(given)
        # x decides over the axes of the others, and stands first
        ordered = {name: wanted.tensor(given[name], name, name) for name in sorted(given, key="x".__ne__)}
        found = wanted.as_batch(ordered)
        positional = list(args)
        for place, name in places:
            if place < len(args):
                positional[place] = found.pop(name)
        return method(*positional, **{**kwargs, **found})

    opened.opened_for = places  # type: ignore[attr-defined]
    return opened


def _ready(owner: Any, given: dict[str, Any]) -> bool:
    """Tells at little cost that all data are tensors as the method takes them."""
    # some microseconds at each training step would be felt where the step is that of a linear model
    dtype = None
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return False
        if name in CONDITIONS and not value.is_floating_point():
            if value.dtype is not torch.int64:
                return False
        elif name != "mask":
            if dtype is None:
                like = parameter_of(owner)
                dtype = None if like is None else like.dtype
            if value.dtype is not dtype or (name == "x" and value.ndim < 3 and _of_sequences(owner)):
                return False
    return True


def _of_sequences(owner: Any) -> bool:
    return any(getattr(one, "of_sequences", False) for one in (owner, getattr(owner, "model", None)))
