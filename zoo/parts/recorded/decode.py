"""Objects from JSON and tensors, as `encode` writes them. Nothing is imported or called that a folder may not name."""

import inspect
from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from pyro.nn import PyroParam, PyroSample
from torch import Tensor, nn

from zoo.parts.recorded.names import Trust, is_part, resolve


class Decoder:
    """Makes the objects of a file one after the other, in the order in which they were written.

    Args:
        tensors: those beside the JSON, by their keys.
        trust: the packages whose objects the file may name.
        states: place of a module -> the keys of its tensors, for modules that no part of the pair owns.

    Attributes:
        known: place -> the object made there.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], trust: Trust, states: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.tensors, self.trust, self.states = tensors, trust, states or {}
        self.known: dict[str, Any] = {}

    def decode(self, node: Any, place: str) -> Any:
        """The object of a node.

        Raises:
            ValueError: the node is none of `encode`'s, names something that no folder may name, or gives a constructor
                other arguments than it has; begins with the place.
        """
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, list):
            return tuple(self._all(node, place))
        made = self._made(node, place)
        self.known[place] = made
        return made

    def _all(self, nodes: Any, place: str) -> list[Any]:
        if not isinstance(nodes, list):
            raise ValueError(f"{place}: expected a list, found {nodes!r}")
        return [self.decode(item, f"{place}[{i}]") for i, item in enumerate(nodes)]

    def _named(self, nodes: Any, place: str, mark: str) -> dict[str, Any]:
        if not isinstance(nodes, dict):
            raise ValueError(f"{place}: expected names and values, found {nodes!r}")
        return {name: self.decode(item, f"{place}{mark.format(name)}") for name, item in nodes.items()}

    def _made(self, node: Any, place: str) -> Any:
        # an argument may have the name of any tag, but none is called `class`: `encode` refuses it
        match node:
            case {"class": path}:
                return self._instance(path, {n: v for n, v in node.items() if n != "class"}, place)
            case {"import": path}:
                return self._resolved(path, place)
            case {"partial": function, "args": args, "keywords": keywords}:
                call = self.decode(function, f"{place}()")
                if not callable(call):
                    raise ValueError(f"{place}: a partial of {call!r}, which is no function")
                return partial(call, *self._all(args, place), **self._named(keywords, place, ".{}"))
            case {"same": str(other)} if other in self.known:
                return self.known[other]
            case {"part": str(owner), "name": str(name)} if isinstance(self.known.get(owner), nn.Module):
                return self._part(self.known[owner], name, place)
            case {"tensor": key}:
                return self._tensor(key, place)
            case {"parameter": key, **rest}:
                return nn.Parameter(self._tensor(key, place), requires_grad=not rest.get("frozen", False))
        return self._value(node, place)

    def _value(self, node: Any, place: str) -> Any:
        match node:
            case {"list": items}:
                return self._all(items, place)
            case {"Size": items}:
                return torch.Size(self._all(items, place))
            case {"dict": items}:
                return self._named(items, place, "[{!r}]")
            case {"OrderedDict": items}:
                return OrderedDict(self._named(items, place, "[{!r}]"))
            case {"slice": [_, _, _] as ends}:
                return slice(*self._all(ends, place))
            case {"number": "inf" | "-inf" | "nan" as number}:
                return float(number)
            case {"dtype": str(name)} if isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            case {"PyroParam": value, "constraint": constraint, "event_dim": event_dim}:
                start = self.decode(value, f"{place}.init_value")
                return PyroParam(start, self.decode(constraint, f"{place}.constraint"), event_dim)
            case {"PyroSample": prior}:
                return PyroSample(self.decode(prior, f"{place}.prior"))
        raise ValueError(
            f"{place}: expected one of the forms of zoo.parts.recorded.encode, found {str(node)[:120]}: written by a "
            "newer zoo, or changed by hand?"
        )

    def _resolved(self, path: Any, place: str) -> Any:
        try:
            return resolve(path, self.trust)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error

    def _instance(self, path: Any, rest: dict[str, Any], place: str) -> Any:
        made = self._resolved(path, place)
        if not is_part(made):
            raise ValueError(f"{place}: {path} is no class of modules, densities or plain values, and is not called")
        args = self._all(rest.pop("*", []), place)
        kwargs = self._named(rest, place, ".{}")
        try:
            inspect.signature(made).bind(*args, **kwargs)
        except TypeError as error:
            raise ValueError(f"{place}: {path} takes other arguments than the folder has ({error})") from error
        try:
            value = made(*args, **kwargs)
        except Exception as error:  # whatever a constructor makes of arguments that are not its own
            raise ValueError(f"{place}: {path} cannot be made again ({type(error).__name__}: {error})") from error
        keys = self.states.get(place)
        if keys is not None:
            put(value, {name: self._tensor(key, place) for name, key in keys.items()}, place)
        return value

    def _part(self, owner: nn.Module, name: str, place: str) -> Any:
        parts = {**dict(owner.named_buffers()), **dict(owner.named_parameters()), **dict(owner.named_modules())}
        if name not in parts:
            raise ValueError(f"{place}: {type(owner).__name__} has no part {name!r}")
        return parts[name]

    def _tensor(self, key: Any, place: str) -> Tensor:
        if key not in self.tensors:
            raise ValueError(f"{place}: expected a tensor {key!r} in the safetensors, found none")
        # a copy: the constructor may keep the tensor and write to it
        return self.tensors[key].clone()


def put(module: nn.Module, tensors: Mapping[str, Tensor], place: str = "", kept: Collection[int] = ()) -> None:
    """Puts tensors in the place of a module's parameters and buffers, each with its own dtype.

    Args:
        kept: `id` of parameters and buffers that stay as they are.

    Raises:
        ValueError: the module has no such tensor, or one of another shape or kind of number.
    """
    homes = {name: (owner, leaf) for path, owner in module.named_modules(remove_duplicate=False)
             for leaf in (*owner._parameters, *owner._buffers)
             for name in [f"{path}.{leaf}" if path else leaf]}  # fmt: skip
    for name, new in tensors.items():
        owner, leaf = homes.get(name, (None, name))
        old = None if owner is None else owner._parameters.get(leaf, owner._buffers.get(leaf))
        if owner is None or old is None or old.shape != new.shape:
            found = "none" if old is None else f"shape {tuple(old.shape)}"
            raise ValueError(f"{place}.{name}: the folder has shape {tuple(new.shape)}, the module built of it {found}")
        if (old.is_floating_point(), old.is_complex()) != (new.is_floating_point(), new.is_complex()):
            raise ValueError(f"{place}.{name}: the folder has {new.dtype}, the module built of it {old.dtype}")
        if id(old) in kept:
            continue
        # `data`, so that a parameter stays the object that several modules and optimisers hold
        old.data = new.detach().to(old.device, copy=True)
