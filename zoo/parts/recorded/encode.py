"""Objects as JSON and tensors.

A JSON object has one of these keys:

    class        an instance: import path of its class; the other keys are the constructor's arguments, "*" those
                 without a name
    import       a class, a function or a constraint, by its import path
    partial      a `functools.partial`: the function, `args`, `keywords`
    same         the object that stands at another place of the file, once more
    part, name   the part of this name of a module that stands at another place
    tensor       a tensor, by its key in the safetensors; `parameter` an nn.Parameter
    PyroParam, PyroSample, list, dict, OrderedDict, Size, slice, dtype, number (inf and nan)

A JSON list is a tuple; numbers, strings, true, false and null are themselves.
"""

import math
from collections import OrderedDict
from functools import partial
from types import MethodType
from typing import Any

import numpy
import torch
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from zoo.parts.recorded.arguments import arguments_of, has_arguments
from zoo.parts.recorded.names import Trust, is_function, is_part, path_of, resolve
from zoo.parts.recorded.recorded import Lost


class Encoder:
    """Writes objects one after the other; one that comes again is written as a reference.

    Attributes:
        tensors: those that are written beside the JSON, by their keys.
        known: id of an object written so far -> the object, kept alive so that no other takes over its id, and place.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.known: dict[int, tuple[Any, str]] = {}
        self._parts: dict[int, tuple[str, str]] = {}
        self._model: Any = None

    def root(self, value: nn.Module, place: str) -> Any:
        """An object that stands by itself; the first is the model of those that follow."""
        node = self.encode(value, place)
        self._model = value if self._model is None else self._model
        return node

    def encode(self, value: Any, place: str) -> Any:
        """The value in JSON's types; `place` names it in messages and references.

        Raises:
            ValueError: of a kind that another process could not make again; begins with the place.
        """
        if isinstance(value, numpy.generic):
            value = value.item()
        # of these very classes: an enumeration may be a number or a word as well, and would come back as no more
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"number": str(value)}
        if isinstance(value, Lost) or value is Lost:
            raise ValueError(f"{place}: {getattr(value, 'description', 'a function')} was lost when it was pickled")
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, type) or is_function(value):
            return {"import": _importable(value, place)}
        if isinstance(value, Constraint) and path_of(value) is not None:
            return {"import": _importable(value, place)}
        if id(value) in self.known:
            return {"same": self.known[id(value)][1]}
        if id(value) in self._parts:
            owner, name = self._parts[id(value)]
            return {"part": owner, "name": name}
        if type(value) is not tuple:
            self.known[id(value)] = (value, place)
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        found = self._container(value, place)
        return self._instance(value, place) if found is None else found

    def tensor(self, value: Tensor) -> str:
        """The key under which the tensor is written."""
        key = f"argument.{len(self.tensors)}"
        self.tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return key

    def _tensor(self, value: Tensor, place: str) -> dict[str, Any]:
        if type(value) not in (Tensor, nn.Parameter):
            # a class of the user's, or a parameter that waits for its shape
            raise ValueError(f"{place}: {_described(value)} would come back as a plain tensor")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise ValueError(f"{place}: a dense tensor of real numbers was expected, got {value.layout}, {value.dtype}")
        if not isinstance(value, nn.Parameter):
            return {"tensor": self.tensor(value)}
        frozen = {} if value.requires_grad else {"frozen": True}
        return {"parameter": self.tensor(value), **frozen}

    def _container(self, value: Any, place: str) -> Any:
        """Sequences, dictionaries and their like; None for other objects."""
        if type(value) in (tuple, list, torch.Size):
            items = [self.encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
            return items if type(value) is tuple else {type(value).__name__: items}
        if type(value) in (dict, OrderedDict):
            wrong = [key for key in value if not isinstance(key, str)]
            if wrong:
                raise ValueError(f"{place}: the keys of a dictionary are strings, got {wrong[0]!r}")
            return {type(value).__name__: {key: self.encode(item, f"{place}[{key!r}]") for key, item in value.items()}}
        if isinstance(value, slice):
            ends = (value.start, value.stop, value.step)
            return {"slice": [self.encode(end, f"{place}[{i}]") for i, end in enumerate(ends)]}
        # of this very class: Pyro's handlers wrap a program in a subclass
        if type(value) is partial:
            args = [self.encode(item, f"{place}[{i}]") for i, item in enumerate(value.args)]
            keywords = {name: self.encode(item, f"{place}.{name}") for name, item in value.keywords.items()}
            return {"partial": self.encode(value.func, f"{place}()"), "args": args, "keywords": keywords}
        if isinstance(value, PyroParam):
            return {
                "PyroParam": self.encode(value.init_value, f"{place}.init_value"),
                "constraint": self.encode(value.constraint, f"{place}.constraint"),
                "event_dim": value.event_dim,
            }
        if isinstance(value, PyroSample):
            return {"PyroSample": self.encode(value.prior, f"{place}.prior")}
        return None

    def _instance(self, value: Any, place: str) -> dict[str, Any]:
        made = type(value)
        if not has_arguments(value) or not is_part(made):
            raise ValueError(f"{place}: {_described(value)} cannot be made again from a file")
        path = _importable(made, place)
        try:
            given = arguments_of(value, self._model)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        node: dict[str, Any] = {"class": path}
        if given.args:
            node["*"] = [self.encode(item, f"{place}[{i}]") for i, item in enumerate(given.args)]
        for name, item in given.kwargs.items():
            if name in ("class", "*"):
                raise ValueError(f"{place}: an argument named {name!r} would be taken for a part of the file's form")
            known, tensors = dict(self.known), dict(self.tensors)
            try:
                node[name] = self.encode(item, f"{place}.{name}")
            except ValueError:
                # a default that cannot be written, such as a lambda, is the class's own in the other process as well
                if name not in given.defaults:
                    raise
                self.known, self.tensors = known, tensors
        if isinstance(value, nn.Module):
            # From here on the module is complete, and an argument may be a part of it that it has made itself.
            for name, part in [*value.named_modules(), *value.named_parameters(), *value.named_buffers()]:
                self._parts.setdefault(id(part), (place, name))
        return node


def _importable(value: Any, place: str) -> str:
    """The import path of a class, function or constraint that another process could follow."""
    path = path_of(value)
    if path is None:
        raise ValueError(f"{place}: {_described(value)} has no import path: put it into a module, by a name of its own")
    # the zoo's own training, data and pictures are closed to folders, as when they are loaded
    try:
        resolve(path, Trust(everything=True))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return path


def _described(value: Any) -> str:
    """An object in words."""
    if not (isinstance(value, type | MethodType) or is_function(value)):
        return f"an object of class {type(value).__module__}.{type(value).__qualname__}"
    name = value.__qualname__
    if isinstance(value, MethodType):
        return f"the bound method {name}"
    if name.endswith("<lambda>"):
        return "a lambda"
    if "<locals>" in name:
        kind = "class" if isinstance(value, type) else "function"
        return f"the local {kind} {name.rpartition('.')[2]}"
    return f"{value.__module__}.{name}"
