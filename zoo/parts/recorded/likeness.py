"""The differences between a module and its twin, built again from the same arguments."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy
import torch
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from zoo.parts.recorded.arguments import arguments_of

# Modes, hooks and registries, which every module has.
_OWN = frozenset(vars(nn.Module()))
_PLAIN = bool | int | float | str | bytes | None | torch.dtype | slice


def unlike_parts(module: nn.Module, twin: nn.Module, place: str) -> Iterator[str]:
    """A line for each part of another class: 'model.decoder.1: Tanh here, ReLU when it is built again'."""
    parts, twins = (dict(m.named_modules(prefix=place, remove_duplicate=False)) for m in (module, twin))
    for name in [*parts, *(n for n in twins if n not in parts)]:
        here, there = parts.get(name), twins.get(name)
        if here is None or there is None or not _same_class(here, there):
            yield _line(name, type(here), type(there))


def unlike_values(value: Any, twin: Any, place: str) -> Iterator[str]:
    """A line for each difference between two values: of modules for each part and attribute."""
    if isinstance(value, nn.Module):
        yield from unlike_parts(value, twin, place)
        yield from _unlike_attributes(value, twin, place)
    elif not same(value, twin):
        yield _line(place, value, twin)


def _unlike_attributes(module: nn.Module, twin: nn.Module, place: str) -> Iterator[str]:
    """A line for each plain attribute of a part that differs: 'model.floor: 0.1 here, 0.0 when it is built again'.

    Attributes with a leading underscore are a class's own affair, such as a cache, and are not compared.
    """
    twins = dict(twin.named_modules(prefix=place))
    for path, part in module.named_modules(prefix=place):
        mine, other = _attributes(part), _attributes(twins[path])
        for name in [*mine, *(n for n in other if n not in mine)]:
            a, b = mine.get(name, _ABSENT), other.get(name, _ABSENT)
            if not same(a, b):
                yield _line(f"{path}.{name}", a, b)


def unlike_tensors(pair: Mapping[str, nn.Module], twins: Mapping[str, nn.Module]) -> Iterator[str]:
    """A line for each tensor that is a parameter in one pair and a buffer in the other, or is shared in one alone."""
    mine, other = _roles(pair), _roles(twins)
    for name, role in mine.items():
        if role != other.get(name):
            yield _line(name, role, other.get(name, _ABSENT))


def _roles(pair: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name of a tensor -> its kind, and the first name under which it stands."""
    first: dict[int, str] = {}
    roles = {}
    for place, half in pair.items():
        for kind, named in (("parameter", half.named_parameters), ("buffer", half.named_buffers)):
            for name, tensor in named(place, remove_duplicate=False):
                roles[name] = f"{kind} {first.setdefault(id(tensor), name)}"
    return roles


def _line(place: str, here: Any, there: Any) -> str:
    return f"{place}: {_shown(here)} here, {_shown(there)} when it is built again from its arguments"


def _shown(value: Any) -> str:
    if value is _ABSENT or value is type(None):
        return "absent"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return value.__name__ if isinstance(value, type) else repr(value)[:80]


_ABSENT = object()


def _attributes(module: nn.Module) -> dict[str, Any]:
    found = {n: v for n, v in vars(module).items() if not n.startswith("_") and n not in _OWN}
    if isinstance(module, ConditionalAutoRegressiveNN):
        # of an order that its constructor draws; its layers hold them as buffers, which are saved
        found = {name: value for name, value in found.items() if name not in ("masks", "mask_skip")}
    # the hooks themselves are often closures over their module; one more or less changes the program
    found |= {name: len(vars(module)[name]) for name in ("_forward_hooks", "_forward_pre_hooks")}
    # Pyro keeps constraints and priors apart from the attributes that they belong to
    for own in ("_pyro_params", "_pyro_samples"):
        found |= {f"{name} ({own.strip('_')})": value for name, value in vars(module).get(own, {}).items()}
    return found


def _same_class(a: Any, b: Any) -> bool:
    # a constructor may make a class anew at each call, as parametrisations of torch do
    first, second = type(a), type(b)
    return first is second or (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)


def same(a: Any, b: Any) -> bool:
    """Tells whether two values are alike: plain values and tensors to the last bit, other objects by their class."""
    # a constructor's argument may be a number of numpy, and comes back as one of Python
    a, b = (value.item() if isinstance(value, numpy.generic) else value for value in (a, b))
    if a is b:
        return True
    if not _same_class(a, b):
        return False
    if isinstance(a, _PLAIN):
        # NaN is unlike itself
        return a == b or (a != a and b != b)
    if isinstance(a, Tensor):
        return identical(a, b)
    if isinstance(a, list | tuple | torch.Size):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict | OrderedDict | Mapping):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, set | frozenset):
        return a == b
    if is_dataclass(a):
        # of one with slots, the fields are all that there is
        mine, other = ({f.name: getattr(v, f.name, _ABSENT) for f in fields(v)} | getattr(v, "__dict__", {})
                       for v in (a, b))  # fmt: skip
        return same(mine, other)
    return _same_function(a, b) and _same_density(a, b)


def identical(a: Tensor, b: Tensor) -> bool:
    """Tells whether two tensors have one dtype and shape, and the same values to the last bit."""
    if a.dtype != b.dtype or a.shape != b.shape or a.layout != b.layout:
        return False
    if a.layout is not torch.strided or a.is_meta or a.is_quantized:
        return True
    a, b = a.detach().cpu(), b.detach().cpu()
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _same_function(a: Any, b: Any) -> bool:
    if isinstance(a, MethodType):
        return _same_function(a.__func__, b.__func__)
    if isinstance(a, partial):
        return same(a.func, b.func) and same(a.args, b.args) and same(a.keywords, b.keywords)
    if isinstance(a, FunctionType):
        # a constructor may make a function anew at each call: the same code, over cells of the same content
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (a, b)]
        return a is b or (a.__code__ is b.__code__ and same(*cells) and same(a.__defaults__, b.__defaults__))
    return not isinstance(a, type) or a is b


def _same_density(a: Any, b: Any) -> bool:
    if not isinstance(a, Distribution | Transform | Constraint):
        return True
    try:
        mine, other = (arguments_of(value) for value in (a, b))
    except ValueError:
        # of a kind that only its own constructor could have made: its class has to do
        return True
    # probabilities are divided by their sum once more when a distribution is made again, and may move by a rounding
    pairs = zip((*mine.args, *mine.kwargs.values()), (*other.args, *other.kwargs.values()), strict=True)
    return all(_close(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else same(x, y) for x, y in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.cpu(), b.to("cpu", a.dtype), rtol=1e-5, equal_nan=True)
