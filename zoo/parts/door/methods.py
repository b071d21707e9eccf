"""The door of the methods of models and guides, such as `log_prob(x)`: opened once, for the class."""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, signature
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from zoo.parts.checks.rows import parameter_of
from zoo.parts.door.arguments import LISTED, REAL, wanted_by
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

# dtypes of tensors that are taken as they are where they are no numbers to a model
CLASSES_AND_MASKS = (torch.int64, torch.bool)


def open_methods(kind: type) -> None:
    """Opens the door of every method of `METHODS` that a class has: x, u, y, c, mask and first may come in any form."""
    for name in METHODS:
        method = getattr(kind, name, None)
        if callable(method) and not hasattr(method, "opened_for"):
            places = [(place, argument) for place, argument in enumerate(signature(method).parameters)
                      if argument in LISTED]  # fmt: skip
            if places:
                setattr(kind, name, _opened(method, places, _rest(method)))


def _rest(method: Callable[..., Any]) -> int | None:
    """The place from which on a method hands its arguments to a program as they are; None: it hands on none."""
    kinds = [parameter.kind for parameter in signature(method).parameters.values()]
    return kinds.index(Parameter.VAR_POSITIONAL) if Parameter.VAR_POSITIONAL in kinds else None


def _opened(method: Callable[..., Any], own: list[tuple[int, str]], rest: int | None) -> Callable[..., Any]:
    @wraps(method)
    def opened(*args: Any, **kwargs: Any) -> Any:
        given = {name: args[place] for place, name in own if place < len(args)}
        given |= {name: kwargs[name] for _, name in own if name in kwargs}
        beside = () if rest is None else (*args[rest:], *kwargs.values())
        if _ready(args[0], (*given.items(), *zip(repeat("beside"), beside, strict=False))):
            return method(*args, **kwargs)
        # a guide names no arguments of its own: it takes those of its model
        model = getattr(args[0], "model", None)
        wanted = wanted_by(*([args[0]] if model is None else [model, args[0]]))
        places = own
        if rest is not None:
            # arguments of the program, by the names that it gives them
            places = [*own, *enumerate(wanted.names[rest - 1 :], rest)]
            given |= {name: args[place] for place, name in places if place < len(args)}
            given |= {name: kwargs[name] for _, name in places if name in kwargs}
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

    opened.opened_for = own  # type: ignore[attr-defined]
    return opened


def _ready(owner: Any, given: Iterable[tuple[str, Any]]) -> bool:
    """Tells at little cost that all data, with their names, are tensors as the method takes them."""
    # some microseconds at each training step would be felt where the step is that of a linear model
    dtype = None
    for name, value in given:
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return False
        if name not in REAL and not value.is_floating_point():
            if value.dtype not in CLASSES_AND_MASKS:
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
