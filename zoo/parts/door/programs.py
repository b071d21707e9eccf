"""The program inside what Pyro's handlers wrap around it, and its arguments."""

import inspect
from collections.abc import Callable
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
