"""The door of a whole call: the arguments of a pair, each as the tensor that its name asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.parts.checks.words import no_tensor
from zoo.parts.door.arrays import tensor_like
from zoo.parts.door.casting import cast
from zoo.parts.door.datasets import is_collection, loaded
from zoo.parts.door.on_file import OnFile, is_on_file
from zoo.parts.door.programs import inside, signature_of
from zoo.parts.door.tables import is_column, is_table, refuse_another_order

# arguments that are numbers to a model, whole numbers too; whole numbers elsewhere are classes or numbers of rows
REAL = ("x", "u", "first")
# classes, or what else a program is given beside x
CONDITIONS = ("y", "c")
# arguments that may come as lists; elsewhere a list is whatever a program takes it for
LISTED = (*REAL, *CONDITIONS, "mask")


@dataclass(frozen=True)
class Wanted:
    """The form in which a pair wants its data.

    Attributes:
        names: of the arguments, in order, the data first.
        more: the program takes arguments besides these.
        dtype: of its parameters; None without.
        device: of its parameters; None without, and where data stay on their own.
        frame: size of a frame of a model that states `of_sequences = True`, so that one series `(T, frame)` stands for
            `(1, T, frame)`; None of other models.
        integers: the model states `of_integers = True`: whole numbers and bools stay what they are.
        labelled: the model states `num_classes`, so that y is a class.
    """

    names: tuple[str, ...] = ("x",)
    more: bool = True
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    frame: int | None = None
    integers: bool = False
    labelled: bool = False

    def name(self, place: int) -> str:
        """The name of an argument by its place."""
        return self.names[place] if place < len(self.names) else f"argument {place}"

    def tensor(self, value: Any, name: str, label: str, *, on_file: bool = False) -> Any:
        """One argument as a tensor.

        Args:
            value: None, and anything that is no data, is handed on.
            name: of the argument.
            label: opens errors.
            on_file: arrays on file stay there (`OnFile`).

        Raises:
            TypeError, ValueError: as in `as_tensor`.
        """
        first = name == self.names[0]
        if value is None or isinstance(value, OnFile):
            return value
        if not is_data(value, name):
            if first:
                raise no_tensor(value, label)
            return value
        if is_on_file(value):
            if on_file:
                given = tensor_like(np.asarray(value[:1]), label)[0].dtype
                return OnFile(value, self._dtype(given, name, first, ours=True), self.device, label)
            # functions that need all rows at once; a map of the right dtype is shared, and not read at once
            value = value if isinstance(value, np.ndarray) else np.asarray(value[:])
        found, columns = tensor_like(value, label)
        kind = self._dtype(found.dtype, name, first, ours=not isinstance(value, Tensor))
        return cast(found, kind, self.device, label, columns)

    def _dtype(self, given: torch.dtype, name: str, first: bool, *, ours: bool) -> torch.dtype | None:
        """The dtype to bring an argument to; None leaves it. `ours`: it was no tensor of the caller's."""
        # arrays are float64 unless told otherwise, and a pair without parameters has torch's default
        real = self.dtype or (torch.get_default_dtype() if ours else None)
        if given.is_floating_point or given.is_complex:
            # labels that are no classes are refused as they came, by the model that asks for classes
            return None if name == "mask" or (name == "y" and self.labelled) else real
        if name == "mask":
            return None
        if first or name in REAL:
            return None if self.integers else real
        return torch.int64 if name in CONDITIONS or (ours and given != torch.bool) else None

    def as_batch(self, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, with a batch axis of one where they are a single series.

        A series is `(T, frame)`, or `(T,)` where a frame is one number; u is `(T, ...)` then, and a mask `(T,)` or
        `(T, frame)`.
        """
        x = values.get(self.names[0])
        if self.frame is None or not isinstance(x, Tensor | OnFile):
            return values
        if x.ndim == 1 and self.frame == 1:
            series = x[:].unsqueeze(-1)
        elif x.ndim == 2 and x.shape[-1] == self.frame:
            series = x[:]
        else:
            return values
        wide = {"mask": (1, 2), "u": (2,), "first": (1,)}
        whole = (1, *series.shape)
        return {
            name: series.unsqueeze(0) if value is x
            else value[:].unsqueeze(0) if isinstance(value, Tensor | OnFile) and value.ndim in wide.get(name, ())
            and value.shape not in (whole, whole[:-1])
            else value
            for name, value in values.items()
        }  # fmt: skip


def wanted_by(*programs: Any, device: bool = True) -> Wanted:
    """The form in which a pair wants its data: of its model first, then of its guide.

    Args:
        device: False leaves data where they are.
    """
    # a handler around a model has neither its parameters nor its attributes
    programs = tuple(map(inside, programs))
    like = next((found for found in map(_like, programs) if found is not None), None)
    dtype, at = (None, None) if like is None else (like.dtype, like.device)
    # stated by attributes, so that a model of anybody's may state them
    frame = next((p.data_dim for p in programs if getattr(p, "of_sequences", False)), None)
    integers = any(getattr(p, "of_integers", False) for p in programs)
    labelled = any(hasattr(p, "num_classes") for p in programs)
    names, more = _names(programs[0])
    return Wanted(names, more, dtype, at if device else None, frame, integers, labelled)


def entered(
    programs: tuple[Any, ...],
    x: Any,
    args: tuple = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
    *,
    names: tuple[str, ...] | None = None,
    on_file: bool = False,
) -> tuple[Any, tuple, dict[str, Any]]:
    """The arguments of a call as tensors, in the dtype and on the device of the parameters of its programs.

    Args:
        programs: model and guide, or one of them.
        x, args, kwargs: the arguments; x may be a `Dataset` or `DataLoader` that yields all of them.
        names: of the positional arguments, the data first; None: as the model names them.
        on_file: arrays on file stay there (`OnFile`), for functions that ask for some rows at a time.

    Raises:
        TypeError, ValueError: data that are no numbers, or would lose some; names the argument.
    """
    wanted = wanted_by(*programs)
    if names is not None:
        wanted = replace(wanted, names=names, more=False)
    if is_collection(x):
        x, *more = loaded(x, wanted.names, wanted.more, wanted.name(0))
        if more and args:
            raise ValueError(f"{wanted.name(0)}: yields {1 + len(more)} arguments, and {len(args)} more were given")
        args = (*more, *args)
    # a model in the place of its data, before its arguments are bound to the guide's
    if x is None or isinstance(x, nn.Module):
        raise no_tensor(x, wanted.name(0))
    places = [wanted.name(place) for place in range(1 + len(args))]
    if twice := [name for name in places if name in kwargs]:
        raise TypeError(f"{twice[0]}: given twice, by its place and by its name")
    named = dict(zip(places, (x, *args), strict=True)) | dict(kwargs)
    refuse_another_order(named)
    named = {name: wanted.tensor(value, name, name, on_file=on_file) for name, value in named.items()}
    named = wanted.as_batch(named)
    found = [named.pop(name) for name in places]
    return found[0], tuple(found[1:]), named


def is_data(value: Any, name: str) -> bool:
    """Tells whether an argument is data, and no setting, state or part of a program."""
    if isinstance(value, Tensor | np.ndarray | OnFile):
        return True
    if isinstance(value, list | tuple):
        return name in LISTED and not hasattr(value, "_fields")
    if isinstance(value, np.generic | nn.Module):
        return False
    return is_on_file(value) or is_table(value) or is_column(value) or hasattr(value, "__dlpack__") or hasattr(
        value, "__array__"
    )  # fmt: skip


def _like(program: Any) -> Tensor | None:
    """The first floating tensor among the parameters and buffers of a program."""
    if not isinstance(program, nn.Module):
        return None
    return next((t for t in chain(program.parameters(), program.buffers()) if t.is_floating_point()), None)


def _names(program: Any) -> tuple[tuple[str, ...], bool]:
    """The names of a program's positional arguments, and True where it takes more than these."""
    if not callable(getattr(program, "forward", program)):
        return ("x",), True
    parameters = signature_of(program).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "index"]
    more = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    # a model around another takes the arguments of that one
    if more and hasattr(program, "inner"):
        return _names(program.inner)
    return tuple(names) or ("x",), more or not names
