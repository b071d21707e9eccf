"""Fingerprints of what a posterior hangs on: the data, the other arguments, the model's state.

A reference found once is held against guides later, perhaps after the data were shuffled or the model trained on. It
keeps one digest for each argument and one for the model, so that the difference can be named.
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

__all__ = ["attributes", "check_fingerprint", "fingerprint", "from_attributes"]

_ATTRIBUTE = "fingerprint"
_MODEL = "the model"  # its key beside the arguments' names, which hold no space


def fingerprint(model: Callable, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, str]:
    """Digests by the name of the argument, and one of the model: parameters and buffers, with their names.

    Arguments are named by the model's signature, so that a mask by position is a mask by name, and None is no argument.
    Entries of x under a False `mask` do not count, nor do device and memory layout; the order of rows does. Of a
    callable that is no module, its code and the modules, tensors and numbers that it refers to are its state.
    """
    given = _named(model, x, args, kwargs)
    first = next(iter(given))
    given[first] = _seen(given[first], given.get("mask"))
    digests = {name: _digest(value) for name, value in given.items()}
    return digests | {_MODEL: _digest_of(chain(_state(model), _stored(model, x, args, kwargs)))}


def attributes(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> dict[str, str]:
    """The fingerprint as an attribute of draws: a word, which every file format keeps."""
    return {_ATTRIBUTE: json.dumps(fingerprint(model, x, *args, **kwargs))}


def from_attributes(attributes: Mapping[Any, Any]) -> dict[str, str] | None:
    """The fingerprint among the attributes of draws, None in draws of one's own."""
    found = attributes.get(_ATTRIBUTE)
    return None if found is None else json.loads(found)


def check_fingerprint(
    found: Mapping[str, str] | None, model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any], caller: str
) -> None:
    """Raises ValueError where `found`, a reference's fingerprint, is not that of the arguments; None says nothing."""
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
    """The arguments by their names in the model, those left out at their defaults; what it does not take is left out.

    A guide alone may take `index`, which is none of the posterior's business.
    """
    signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    takes = {p.kind: p.name for p in signature.parameters.values()}
    bound = signature.bind(x, *args, **_taken(signature, kwargs))
    bound.apply_defaults()
    given = dict(bound.arguments)
    several = given.pop(takes.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    given |= given.pop(takes.get(inspect.Parameter.VAR_KEYWORD, ""), {})
    if not given:  # a program of *args alone
        several, given = several[1:], {"x": several[0]}
    given |= {f"argument_{place}": value for place, value in enumerate(several, len(given))}
    return {name: value for name, value in given.items() if value is not None}


def _taken(signature: inspect.Signature, kwargs: dict[str, Any]) -> dict[str, Any]:
    kinds = [p.kind for p in signature.parameters.values()]
    if "index" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds:
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "index"}


def _stored(model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parameters that a program, not being a module, has in Pyro's store: those that it asks for in one run."""
    if isinstance(model, nn.Module):
        return
    with torch.no_grad(), streams_kept():
        trace = poutine.trace(model).get_trace(x, *args, **_taken(inspect.signature(model), kwargs))
    yield from ((name, site["value"]) for name, site in trace.nodes.items() if site["type"] == "param")


def _seen(x: Any, mask: Any) -> Any:
    """The data with zeros under a False mask."""
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return x
    if mask.shape != x.shape[: mask.dim()]:
        return x
    return torch.where(mask.to(x.device).reshape(mask.shape + (1,) * (x.dim() - mask.dim())), x, x.new_zeros(()))


def _digest(value: Any) -> str:
    """Kind and hash of one argument: `float64 (3, 2) sha256:...`."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{kind} sha256:{_digest_of(_leaves(value))}"


def _digest_of(leaves: Iterator[tuple[str, Any]]) -> str:
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
    """The entries, row by row; one bit pattern for every NaN and for both zeros."""
    value = value.detach().cpu().resolve_conj().resolve_neg().to_dense()
    if value.is_floating_point():
        value = torch.where(value.isnan(), torch.nan, value) + 0.0
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _leaves(value: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """What can be hashed of any value: tensors, numbers, words and what holds them; of the rest its class."""
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
        yield from _state(value, name, seen)
    else:
        yield name, type(value).__qualname__


def _state(program: Any, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """What a program's densities hang on, each with a name."""
    seen = set() if seen is None else seen
    if id(program) in seen:
        return
    seen.add(id(program))
    if isinstance(program, MethodType):
        yield f"{name}.method", program.__name__
        yield from _leaves(program.__self__, name, seen)
    elif isinstance(program, partial):
        yield from _leaves([program.func, program.args, program.keywords], name, seen)
    elif isinstance(program, nn.Module):
        yield name, type(program).__qualname__
        for key, value in sorted([*program.named_parameters(), *program.named_buffers()], key=itemgetter(0)):
            yield f"{name}.{key}", value
        for key, module in program.named_modules():
            for attribute, value in vars(module).items():  # settings kept as plain tensors and fractions
                if isinstance(value, Tensor | float) and not attribute.startswith("_"):
                    yield f"{name}.{key}.{attribute}", value
    elif isinstance(program, FunctionType):
        yield from _code(program.__code__, name)
        refers = dict(inspect.getclosurevars(program).nonlocals)
        refers |= inspect.getclosurevars(program).globals
        refers |= {"defaults": (program.__defaults__, program.__kwdefaults__)}
        for key, value in refers.items():
            other = isinstance(value, FunctionType) and value.__globals__ is not program.__globals__
            if not other:  # functions of the same file are part of the program, those of libraries are not
                found = _leaves(value, f"{name}.{key}", seen)
                yield from ((place, leaf) for place, leaf in found if not isinstance(leaf, int))  # counters
    else:  # an object with __call__
        yield name, type(program).__qualname__
        for key, value in getattr(program, "__dict__", {}).items():
            if isinstance(value, Tensor | float | nn.Module | FunctionType | MethodType | partial):
                yield from _leaves(value, f"{name}.{key}", seen)


def _code(code: CodeType, name: str) -> Iterator[tuple[str, Any]]:
    yield name, code.co_code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, f"{name}.{constant.co_name}")
        elif isinstance(constant, frozenset):  # its order changes from process to process
            yield name, sorted(map(repr, constant))
        else:
            yield name, constant
