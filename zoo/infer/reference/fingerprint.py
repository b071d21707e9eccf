"""Fingerprints of the data, the other arguments and the model's state, on which a posterior depends.

A reference found once is held against guides later, perhaps after the data were shuffled or the model was trained
further. The reference keeps one digest for each argument and one for the model, so that the difference can be named.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from operator import itemgetter
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from zoo.parts.aside import streams_kept
from zoo.parts.door import refuse_unknown, signature_of
from zoo.parts.given.conditions import program_arguments
from zoo.parts.labels import one_hot

__all__ = ["attributes", "check_fingerprint", "fingerprint", "from_attributes"]

_ATTRIBUTE = "fingerprint"
# Attribute of draws from one joint posterior of all latents, without an axis of data; a number, as netCDF has no bool.
JOINT = "joint"
# Key of the model's digest; no argument has this name, because names of arguments hold no space.
_MODEL = "the model"


def fingerprint(model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, str]:
    """Digests of each argument, by name, and of the model: its parameters and buffers, with their names.

    Arguments are named by the model's signature, so that a mask by position is a mask by name, and None is no argument.
    Entries of x under a False `mask` do not count, nor do device and memory layout; the order of rows does. Classes as
    a condition are their one-hot vectors. The state
    of a callable that is no module is its code, with the modules, tensors and numbers that it refers to.

    Args:
        model: a Pyro model, a module or any callable.
        x, *args, **kwargs: the model's arguments.

    Returns:
        Name of the argument, or "the model" -> digest.
    """
    named = _named(model, x, args, kwargs)
    # The data are the first argument, whatever the model calls it.
    data = next(iter(named))
    named[data] = _observed(named[data], named.get("mask"))
    told = "c" if "c" in program_arguments(model) else "y"
    if told in named:
        named[told] = _condition(named[told], getattr(model, "condition_dim", 0) or 0, x)
    digests = {name: _digest(value) for name, value in named.items()}
    return digests | {_MODEL: _digest_of(chain(_program_leaves(model), _stored(model, x, args, kwargs)))}


def attributes(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> dict[str, str]:
    """The fingerprint as an attribute of draws, in JSON."""
    # One word of JSON: netCDF keeps no dictionaries as attributes.
    return {_ATTRIBUTE: json.dumps(fingerprint(model, x, *args, **kwargs))}


def from_attributes(attributes: Mapping[Any, Any]) -> dict[str, str] | None:
    """The fingerprint among the attributes of draws; None in draws of one's own."""
    found = attributes.get(_ATTRIBUTE)
    return None if found is None else json.loads(found)


def check_fingerprint(
    found: Mapping[str, str] | None, model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any], caller: str
) -> None:
    """Refuses a reference of other data, of other arguments or of another model.

    Args:
        found: the reference's fingerprint; None passes, as in draws of one's own.
        model, x, args, kwargs: the model and its arguments, for which the reference is to be used.
        caller: the public function, for the message.

    Raises:
        ValueError: names each argument that differs, and the model if it differs.
    """
    if found is None:
        return
    now = fingerprint(model, x, *args, **kwargs)
    apart = []
    for name in dict.fromkeys([*found, *now]):
        had, has = found.get(name), now.get(name)
        if had == has:
            continue
        if name == _MODEL:
            apart.append("of another model, or of this one before its parameters or buffers changed")
        elif had is None or has is None:
            apart.append(f"found {'without' if had is None else 'with'} the argument {name!r}")
        elif (kinds := [part.partition(" sha256:")[0] for part in (had, has)])[0] != kinds[1]:
            apart.append(f"of another {name!r}: {kinds[0]}, here {kinds[1]}")
        else:
            apart.append(f"of another {name!r}: other values, or rows in another order")
    if apart:
        raise ValueError(f"{caller}: the reference is {'; and '.join(apart)}. Find the reference again for these")


def _named(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their names in the model, omitted ones at their defaults, without those that are None."""
    signature = signature_of(model)
    takes = {p.kind: p.name for p in signature.parameters.values()}
    taken = _taken(signature, kwargs)
    refuse_unknown(model, taken)
    bound = signature.bind(x, *args, **taken)
    bound.apply_defaults()
    named = dict(bound.arguments)
    several = named.pop(takes.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    named |= named.pop(takes.get(inspect.Parameter.VAR_KEYWORD, ""), {})
    if not named:  # a program of *args alone
        several, named = several[1:], {"x": several[0]}
    named |= {f"argument_{place}": value for place, value in enumerate(several, len(named))}
    return {name: value for name, value in named.items() if value is not None}


def _taken(signature: inspect.Signature, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments without an `index` that the program does not take."""
    # Guides of single data points take `index`, the model seldom does: rows' numbers do not change the posterior.
    kinds = [p.kind for p in signature.parameters.values()]
    if "index" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds:
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "index"}


def _stored(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parameters in Pyro's store that a program asks for in one run; none for a module, which owns its own."""
    if isinstance(model, nn.Module):
        return
    with torch.no_grad(), streams_kept():
        trace = poutine.trace(model).get_trace(x, *args, **_taken(signature_of(model), kwargs))
    yield from ((name, site["value"]) for name, site in trace.nodes.items() if site["type"] == "param")


def _observed(x: Any, mask: Any) -> Any:
    """The data with zeros under a False mask; unchanged by a mask that does not fit."""
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return x
    if mask.shape != x.shape[: mask.dim()]:
        return x
    return torch.where(mask.to(x.device).reshape(mask.shape + (1,) * (x.dim() - mask.dim())), x, x.new_zeros(()))


def _condition(y: Any, size: int, x: Any) -> Any:
    """A model's condition as the vectors that it sees, so that classes are their one-hot vectors; others unchanged."""
    if not size or not isinstance(y, Tensor) or not isinstance(x, Tensor):
        return y
    if y.ndim == 2:
        return y.to(x.dtype)
    classes = y.ndim == 1 and not y.is_floating_point() and bool(((y >= 0) & (y < size)).all())
    return one_hot(y.to(x.device), size, x) if classes else y


def _digest(value: Any) -> str:
    """Kind and hash of one argument: `float64 (3, 2) sha256:...`."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{kind} sha256:{_digest_of(_leaves(value))}"


def _digest_of(leaves: Iterator[tuple[str, Any]]) -> str:
    """One hash of leaves with their names."""
    total = hashlib.sha256()
    for name, leaf in leaves:
        total.update(f"\n{name} ".encode())
        if isinstance(leaf, Tensor):
            total.update(f"{leaf.dtype} {tuple(leaf.shape)} ".encode())
            total.update(_bytes(leaf))
        else:
            total.update(leaf if isinstance(leaf, bytes) else repr(leaf).encode())
    return total.hexdigest()[:32]


def _bytes(value: Tensor) -> bytes:
    """The entries of a tensor, row by row; one bit pattern for every NaN and for both zeros."""
    # Equal values must have equal bytes, on any device and in any layout. NaNs differ in their payloads, zeros in their
    # signs.
    value = value.detach().cpu().resolve_conj().resolve_neg().to_dense()
    if value.is_floating_point():
        value = torch.where(value.isnan(), torch.nan, value) + 0.0
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _leaves(value: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The hashable parts of any value, each with a name: tensors, numbers, words; of other objects the class.

    Args:
        value: an argument, or a part of a program.
        name: prefix of the names.
        seen: identities of the programs that have been looked into.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor | bytes | bool | int | float | complex | str | None):
        yield name, value
    elif isinstance(value, np.ndarray):
        yield name, torch.as_tensor(np.ascontiguousarray(value)) if value.dtype.kind in "biufc" else value.tolist()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}[{key!r}]", seen)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}[{place}]", seen)
    elif callable(value) and not isinstance(value, type):
        yield from _program_leaves(value, name, seen)
    else:
        # Not repr: it may hold an address, and the same object would differ from process to process.
        yield name, type(value).__qualname__


def _program_leaves(program: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The leaves on which a program's densities depend, each with a name."""
    seen = set() if seen is None else seen
    # A function that calls itself, or two modules that know each other, would never end.
    if id(program) in seen:
        return
    seen.add(id(program))
    if isinstance(program, MethodType):
        yield f"{name}.method", program.__name__
        yield from _leaves(program.__self__, name, seen)
    elif isinstance(program, partial):
        yield from _leaves([program.func, program.args, program.keywords], name, seen)
    elif isinstance(program, nn.Module):
        yield from _module_leaves(program, name)
    elif isinstance(program, FunctionType):
        yield from _function_leaves(program, name, seen)
    else:  # an object with __call__
        yield name, type(program).__qualname__
        # Counters and caches are no settings: of an object's attributes those count that a density is computed from.
        for key, value in vars(program).items() if hasattr(program, "__dict__") else ():
            if isinstance(value, Tensor | float | nn.Module | FunctionType | MethodType | partial):
                yield from _leaves(value, f"{name}.{key}", seen)


def _module_leaves(module: nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    """A module's parameters and buffers, and its settings that are plain tensors or fractions."""
    yield name, type(module).__qualname__
    # Sorted: the order of registration is no part of the state.
    for key, value in sorted([*module.named_parameters(), *module.named_buffers()], key=itemgetter(0)):
        yield f"{name}.{key}", value
    for key, part in module.named_modules():
        for attribute, value in vars(part).items():
            if isinstance(value, Tensor | float) and not attribute.startswith("_"):
                yield f"{name}.{key}.{attribute}", value


def _function_leaves(function: FunctionType, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A function's code and the values that it refers to."""
    yield from _code(function.__code__, name)
    refers = dict(inspect.getclosurevars(function).nonlocals)
    refers |= inspect.getclosurevars(function).globals
    refers |= {"defaults": (function.__defaults__, function.__kwdefaults__)}
    for key, value in refers.items():
        # Functions of the same file are part of the program; those of libraries are not, and lead far.
        if isinstance(value, FunctionType) and value.__globals__ is not function.__globals__:
            continue
        # Whole numbers that a function refers to are left out: they may be counters, which move from run to run.
        found = _leaves(value, f"{name}.{key}", seen)
        yield from ((place, leaf) for place, leaf in found if not isinstance(leaf, int))


def _code(code: CodeType, name: str) -> Iterator[tuple[str, Any]]:
    """The byte code and the constants of a function and of the functions inside it."""
    yield name, code.co_code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, f"{name}.{constant.co_name}")
        elif isinstance(constant, frozenset):
            # Sorted: the order of a set of words changes from process to process.
            yield name, sorted(map(repr, constant))
        else:
            yield name, constant
