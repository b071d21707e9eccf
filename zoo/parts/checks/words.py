"""Checks of numbers and of tensors as such, and the words for many rows."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from numbers import Integral
from operator import index
from typing import Any

from torch import Tensor, nn


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first items in words, and the number of the others: "3, 17 and 4 more"."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def check_counts(least: int = 1, **counts: int) -> None:
    """Refuses counts that are not whole numbers, or too small; the keyword is the argument's name.

    Raises:
        ValueError: names the argument.
    """
    for name, value in counts.items():
        # True is an Integral: `num=True` is a mistake, not one draw
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}: expected a whole number, at least {least}, got {value!r}")


def check_tensor(value: Tensor, name: str = "x") -> None:
    """Refuses everything but a tensor, and says where a split of a data set has its tensors.

    Raises:
        TypeError: names the argument.
    """
    if not isinstance(value, Tensor):
        raise no_tensor(value, name)


def no_tensor(value: object, name: str) -> TypeError:
    """The error of an argument that is no tensor, with the words for a split of a data set."""
    # by the class: an attribute that is made when asked for takes the memory of a whole data set
    held = [a for a in ("images", "values") if isinstance(getattr(type(value), a, None), cached_property)]
    if hasattr(value, "toarray"):
        return TypeError(f"{name}: expected a torch.Tensor, got a sparse {type(value).__name__}; take its toarray()")
    # of a model or guide nothing makes a tensor
    hint = "" if isinstance(value, nn.Module) else "; torch.as_tensor converts it"
    hint = f"; take its `{held[0]}`" if held else hint
    return TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}{hint}")


def check_positive(**numbers: float) -> None:
    """Refuses numbers that are not positive and finite; the keyword is the argument's name.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not _true_of(value, lambda number: 0 < number < math.inf):
            raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def check_between(low: float, high: float, **numbers: float) -> None:
    """Refuses numbers outside an open interval, and NaN; the keyword is the argument's name.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not _true_of(value, lambda number: low < number < high):
            raise ValueError(f"{name}: expected a number between {low} and {high}, got {value!r}")


def check_least(least: float, **numbers: float) -> None:
    """Refuses numbers below `least`, and NaN; infinity passes. The keyword is the argument's name.

    Raises:
        ValueError: names the argument.
    """
    for name, value in numbers.items():
        if not _true_of(value, lambda number: number >= least):
            raise ValueError(f"{name}: expected a number, at least {least}, got {value!r}")


def _true_of(value: object, condition: Callable[[Any], Any]) -> bool:
    """The answer of a condition on a number; False for what is no number, and for True and False."""
    try:
        return not isinstance(value, bool) and bool(condition(value))
    except (TypeError, RuntimeError):
        # of a tensor of several numbers, too
        return False


def widths(hidden: Sequence[int], name: str = "hidden") -> tuple[int, ...]:
    """The widths of hidden layers as integers.

    Args:
        hidden: the widths.
        name: of the argument, as errors name it.

    Raises:
        TypeError: `hidden` is not a sequence of whole numbers.
        ValueError: a width below 1.
    """
    try:
        # operator.index takes numpy's integers too and refuses 100.0, which int() would round
        found = tuple(index(width) for width in hidden)
    except TypeError as error:
        raise TypeError(f"{name}: expected a tuple of layer widths such as (100,), got {hidden!r}") from error
    if any(width < 1 for width in found):
        raise ValueError(f"{name}: expected widths >= 1, got {found}")
    return found
