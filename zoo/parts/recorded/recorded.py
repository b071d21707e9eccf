"""The constructor arguments of a module, kept beside it."""

import copy
import functools
import inspect
import pickle
import sys
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Lost:
    """A place holder for an argument that a pickle could not hold, such as a lambda."""

    description: str


class Arguments:
    """The arguments of one constructor call, and torch's default dtype at the time.

    Args:
        args, kwargs: as they were given.
        dtype: torch's default dtype.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype) -> None:
        self.args, self.kwargs, self.dtype = tuple(map(_leaf, args)), {n: _leaf(v) for n, v in kwargs.items()}, dtype

    def bound(self, made: type) -> inspect.BoundArguments:
        """The arguments by the names that the constructor has for them, defaults included.

        Raises:
            TypeError: they are not those of this constructor.
        """
        found = inspect.signature(made).bind(*self.args, **self.kwargs)
        found.apply_defaults()
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Arguments":
        kwargs = {name: _copied(value, memo) for name, value in self.kwargs.items()}
        return Arguments(tuple(_copied(a, memo) for a in self.args), kwargs, self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        # A module pickles without the lambdas that its constructor was given, and has to do so with its record.
        kwargs = {name: _portable(value) for name, value in self.kwargs.items()}
        return {"args": tuple(map(_portable, self.args)), "kwargs": kwargs, "dtype": self.dtype}


class Recorded:
    """A mixin that keeps the constructor's arguments, so that `zoo.save_pair` can write the module.

    Models, guides, families and parts of the zoo have it. A network or a PyroModule of your own needs it if its
    constructor takes arguments: `class Encoder(Recorded, nn.Module)`.

    Example:
        >>> from torch import nn
        >>> from zoo.parts.recorded import Recorded
        >>> class Encoder(Recorded, nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.layer = nn.Linear(size, size)
        >>> Encoder(3)._arguments.args
        (3,)
    """

    _arguments: Arguments

    # In `__new__`, which gets the arguments of the outermost class before any constructor runs: no subclass has to hand
    # them on. Copies and pickles call it without arguments, and put the state back afterwards.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        # past `nn.Module.__setattr__`, which works after the constructor alone; a module among the arguments is no part
        made.__dict__["_arguments"] = Arguments(args, kwargs, torch.get_default_dtype())
        return made


def recorded_with(module: Any, **changed: Any) -> None:
    """States that a module is as if its constructor had been given these arguments in place of the recorded ones."""
    kept: Arguments = module._arguments
    bound = kept.bound(type(module))
    bound.arguments.update(changed)
    module.__dict__["_arguments"] = Arguments(bound.args, bound.kwargs, kept.dtype)


def found_at(module: str, name: str, value: Any) -> bool:
    """Tells whether a name of a loaded module leads to this very object."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _leaf(value: Any) -> Any:
    # the graph that led to a tensor would live as long as the module, and torch refuses to deep-copy such a tensor
    return value.detach() if isinstance(value, Tensor) and value.grad_fn is not None else value


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; the object itself where it cannot be copied, as a generator."""
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, pickle.PicklingError):
        return value


def _portable(value: Any) -> Any:
    """The value, with `Lost` in place of all that pickle refuses."""
    if isinstance(value, nn.Module | Tensor | bool | int | float | str | None):
        # kept as they are: tried alone, a module would be pickled twice
        return value
    if type(value) in (tuple, list):
        return type(value)(map(_portable, value))
    if type(value) is dict:
        return {name: _portable(inner) for name, inner in value.items()}
    if type(value) is functools.partial:
        return functools.partial(_portable_call(value.func), *map(_portable, value.args), **_portable(value.keywords))
    if isinstance(value, FunctionType | type):
        return value if found_at(value.__module__, value.__qualname__, value) else Lost(repr(value))
    try:
        pickle.dumps(value)
    except Exception:  # whatever a class's own methods raise
        return Lost(repr(value))
    return value


def _portable_call(function: Any) -> Any:
    # `partial` takes callables alone, so a lost function becomes the class of its place holder
    found = _portable(function)
    return Lost if isinstance(found, Lost) else found
