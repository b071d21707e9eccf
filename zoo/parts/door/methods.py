"""The door of a method of a model or guide, such as `log_prob(x)`."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from zoo.parts.checks.rows import parameter_of
from zoo.parts.door.arguments import LISTED, REAL, wanted_by

P = ParamSpec("P")
R = TypeVar("R")


def takes_data(method: Callable[P, R]) -> Callable[P, R]:
    """A method whose data, its arguments x, u, y, mask and first, may come in any form, as `entered` takes them."""
    places = [(place, name) for place, name in enumerate(signature(method).parameters) if name in LISTED]

    @wraps(method)
    def opened(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: args[place] for place, name in places if place < len(args)}
        given |= {name: kwargs[name] for _, name in places if name in kwargs}
        owner: Any = args[0]
        if not given or _ready(owner, given):
            return method(*args, **kwargs)
        wanted = wanted_by(owner, getattr(owner, "model", None))
        ordered = {name: wanted.tensor(value, name, name) for name, value in sorted(given.items(), key=_data_first)}
        found = wanted.as_batch(ordered)
        positional: list[Any] = list(args)
        for place, name in places:
            if place < len(args):
                positional[place] = found.pop(name)
        return method(*positional, **{**kwargs, **found})  # type: ignore[arg-type]

    return opened


def _data_first(item: tuple[str, Any]) -> bool:
    return item[0] != "x"


def _ready(owner: Any, given: dict[str, Any]) -> bool:
    """Tells at little cost that all data are tensors as the method takes them."""
    # some microseconds at each training step would be felt where the step is that of a linear model
    dtype = None
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            return False
        if name in REAL:
            dtype = dtype or _dtype_of(owner)
            if value.dtype is not dtype or (value.ndim < 3 and name == "x" and getattr(owner, "of_sequences", False)):
                return False
    return True


def _dtype_of(owner: Any) -> Any:
    like = parameter_of(owner)
    return None if like is None else like.dtype
