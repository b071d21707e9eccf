"""`index`, the numbers of a batch's rows in the data: given to programs that have parameters for each row, only."""

from collections.abc import Callable
from typing import Any

from zoo.parts.door.programs import signature_of


def takes_index(fn: Callable | None) -> bool:
    """Tells whether a program asks for `index`, the numbers of the batch's rows: it has parameters for each row."""
    if fn is None:
        return False
    asks = "index" in signature_of(fn).parameters
    # a guide made of others (`guides.Factorised`) asks for it where one of them does
    return bool(getattr(fn, "indexed", asks))


def keywords_of(fn: Callable, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords for a program: without the row numbers, if the program does not ask for them."""
    if "index" not in kwargs or takes_index(fn):
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "index"}
