"""The program inside what Pyro's handlers wrap around it, and its arguments."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pyro.poutine.messenger import _bound_partial, _context_wrap
from torch import nn


def inside(program: Any) -> Any:
    """The program that a Pyro handler wraps, `poutine.block(model)` and its like; any other program as it is."""
    # `pyro.poutine.messenger.unwrap` takes the second argument of anybody's `functools.partial` for the program
    while isinstance(program, _bound_partial) or (isinstance(program, partial) and program.func is _context_wrap):
        program = program.func if isinstance(program, _bound_partial) else program.args[1]
    return program


def signature_of(program: Callable) -> inspect.Signature:
    """The arguments of a program: of a module those of its `forward`, of a wrapped program its own."""
    program = inside(program)
    # Python finds no signature of a handler called by its class, as in `AutoNormal(model).model`
    if isinstance(program, partial) and isinstance(program.func, nn.Module):
        program = partial(program.func.forward, *program.args, **program.keywords)
    return inspect.signature(program.forward if isinstance(program, nn.Module) else program)


def refuse_unknown(program: Callable, names: Iterable[str]) -> None:
    """Refuses arguments that a program does not take: a misspelt one is told before a guide wonders what it is.

    Args:
        names: of the arguments given by name.

    Raises:
        TypeError: names the first that the program does not take, and those that it takes.
    """
    parameters = signature_of(program).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = [name for name in names if name not in parameters]
    if unknown:
        who = getattr(inside(program), "__name__", type(inside(program)).__name__)
        raise TypeError(f"{unknown[0]}: no argument of {who}, which takes {', '.join(parameters) or 'none'}")
