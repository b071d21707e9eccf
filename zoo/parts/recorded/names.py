"""Import paths: the shortest one of an object, and the object at a path, if a folder may name it."""

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from zoo.parts.recorded.recorded import found_at

# Places of the zoo that touch files and the network, or train: no model is built of them.
CLOSED = (
    "zoo.infer", "zoo.data", "zoo.plots", "zoo.folders", "zoo.pretrained", "zoo.shipped", "zoo.__main__",
    "zoo.parts.recorded",
)  # fmt: skip
# Functions of `torch` itself that serve as nonlinearities; those of `torch.nn.functional` are all free of side effects.
ACTIVATIONS = (
    "abs", "asinh", "atan", "celu", "cos", "erf", "exp", "expm1", "log1p", "log_softmax", "prelu", "relu", "rrelu",
    "selu", "sigmoid", "sin", "sinc", "softmax", "square", "tanh",
)  # fmt: skip
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Trust:
    """The packages whose objects a folder may name.

    Args:
        packages: besides the zoo, torch's modules and Pyro's distributions.
        everything: all that is no part of the zoo, for objects of this process.

    Raises:
        TypeError: `packages` is no sequence of packages' names.
    """

    def __init__(self, packages: Iterable[str] = (), *, everything: bool = False) -> None:
        # None is refused too: it could mean nothing as well as everything
        names: list[Any] = [*packages] if isinstance(packages, Iterable) and not isinstance(packages, str) else [None]
        if not all(isinstance(name, str) and _PATH.fullmatch(name) for name in names):
            raise TypeError(f'trust: expected a tuple of packages such as ("mine",), got {packages!r}')
        self.packages, self.everything = tuple(names), everything

    def covers(self, path: str) -> bool:
        """Tells whether a path lies in one of the packages."""
        return not _within(path, ("zoo", "guides")) if self.everything else _within(path, self.packages)


def path_of(value: Any) -> str | None:
    """The shortest public path at which this very object is imported; None where there is none.

    Folders then outlive a move of files: `zoo.VAE`, and not `zoo.vae.VAE`.
    """
    home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, Constraint):
        home = type(value).__module__
        # instances have no name of their own; `pyro.distributions.constraints` repeats those of torch
        name = next((n for n, v in vars(sys.modules[home]).items() if v is value), None)
    if isinstance(value, BuiltinFunctionType):
        # written in C, such a function calls a hidden module or none its home
        places, name = ["torch", "torch.nn.functional"], value.__name__
    else:
        parts = (home or "").split(".")
        places = [".".join(parts[: i + 1]) for i in range(len(parts))]
        places = [p for p in places if p == home or not any(part.startswith("_") for part in p.split("."))]
    if not name or "<" in name:
        return None
    if isinstance(value, type) and issubclass(value, Constraint) and name.startswith("_"):
        # torch names `greater_than` the class `_GreaterThan`
        name = next((n for n, v in vars(sys.modules[home or ""]).items() if v is value and n[0] != "_"), name)
    return next((f"{place}.{name}" for place in places if found_at(place, name, value)), None)


def resolve(path: Any, trust: Trust) -> Any:
    """The class, function or constraint at an import path that a folder names.

    Raises:
        ValueError: no path, one that no folder may name (it is not imported then), or nothing is found there.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"expected an import path such as 'zoo.VAE', found {path!r}")
    place = path.rpartition(".")[0]
    _refuse(path, _allowed(path, place, trust) is None, trust)
    value = _imported(path)
    # an allowed place may hold a name that it imported from elsewhere
    home = type(value).__module__ if isinstance(value, Constraint) else getattr(value, "__module__", None)
    test = _allowed(path, str(home), trust)
    _refuse(path, test is None or not test(value), trust)
    return value


def _refuse(path: str, refused: bool, trust: Trust) -> None:
    if refused:
        package = path.partition(".")[0]
        closed = _within(path, ("zoo", "guides"))
        hint = "nothing there is part of a model" if closed else f'if you trust it, load with trust=("{package}",)'
        raise ValueError(
            f"{path}: a folder names modules, dataclasses and functions of zoo and guides, modules and activations of "
            f"torch.nn, distributions, constraints and autoguides of Pyro; {hint}"
        )


def _imported(path: str) -> Any:
    parts = path.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:depth])
        try:
            value: Any = sys.modules.get(name) or importlib.import_module(name)
        except ModuleNotFoundError as error:
            # of this name or of one above: a class stands there, and the module is found further up
            if error.name is None or not _within(name, (error.name,)):
                raise ValueError(f"{path}: cannot be imported ({error})") from error
            continue
        except Exception as error:  # a package of the user's runs, and may raise anything
            raise ValueError(f"{path}: cannot be imported ({error})") from error
        for part in parts[depth:]:
            # through classes alone: `zoo.vae.torch.load` would lead out of the place that was allowed
            if isinstance(value, ModuleType) and value.__name__ != name:
                break
            value = getattr(value, part, None)
        if value is not None and not isinstance(value, ModuleType):
            return value
        raise ValueError(f"{path}: {name} has no such class or function; has it been renamed since?")
    raise ValueError(f"{path}: there is no module {parts[0]}")


def _within(path: str, packages: Sequence[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


# --- kinds -----------------------------------------------------------------------------------------------------------


def is_part(value: Any) -> bool:
    """Tells whether a folder may have an instance of this class: modules and plain values, nothing with effects."""
    if not isinstance(value, type):
        return False
    named = issubclass(value, tuple) and hasattr(value, "_fields")
    kinds = nn.Module | Distribution | Transform | Constraint
    return issubclass(value, kinds) or is_dataclass(value) or named or is_rich_number(value)


def is_rich_number(value: Any) -> bool:
    """Tells whether a value is a class of integers that know more than their value, such as `Maps`."""
    # `copy` and `pickle` make such an object again by the same method
    return isinstance(value, type) and issubclass(value, int) and value.__getnewargs__ is not int.__getnewargs__


def _any_kind(value: Any) -> bool:
    return is_part(value) or is_function(value) or isinstance(value, Constraint)


def is_function(value: Any) -> bool:
    """Tells whether a value is a function; a folder may refer to one and never calls it."""
    return isinstance(value, FunctionType | BuiltinFunctionType)


def _is_density(value: Any) -> bool:
    return isinstance(value, Constraint) or (
        isinstance(value, type) and issubclass(value, Distribution | Transform | Constraint)
    )


def _is_flow(value: Any) -> bool:
    # functions too: `AutoNormalizingFlow` takes them, such as `affine_autoregressive`
    return isinstance(value, FunctionType) or _is_density(value)


def _is_automatic(value: Any) -> bool:
    return isinstance(value, FunctionType) or (isinstance(value, type) and issubclass(value, AutoGuide))


def _is_module(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


# Place -> the kind that it is allowed for; longer places stand before those that hold them.
_PLACES: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("zoo", _any_kind),
    ("guides", _any_kind),
    ("torch.nn.functional", is_function),
    ("torch._C._nn", is_function),
    ("torch.nn.modules", _is_module),
    ("torch.distributions", _is_density),
    ("pyro.distributions.transforms", _is_flow),
    ("pyro.distributions", _is_density),
    ("pyro.infer.autoguide", _is_automatic),
)


def _allowed(path: str, place: str, trust: Trust) -> Callable[[Any], bool] | None:
    """The kind of object that the place is allowed for; None for nothing."""
    if trust.covers(place):
        return _any_kind
    if _within(place, CLOSED):
        return None
    if place == "torch.nn":
        return _is_module
    if place == "torch" and path.rpartition(".")[2] in ACTIVATIONS:
        return lambda value: getattr(torch, path.rpartition(".")[2]) is value
    return next((test for name, test in _PLACES if _within(place, (name,))), None)
