"""The effect `once`: a computation that guide and model both ask for runs a single time in one evaluation of a pair.

A guide hands its draws to the model, and the model's networks meet the very tensors that the guide's call of them met.
Such a call is marked, and `zoo.infer.terms`, which runs the pair under the handler `Once`, answers the repeated call
with the result of the first. Without the handler (Predictive, NUTS, Pyro's own bounds) a marked call is a plain call.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK

_PLAIN = (bool, int, float, str, type(None))


def once(method: Callable) -> Callable:
    """Marks a function or method: a repeated call within one evaluation may return the result of the first.

    The result must depend on the arguments (and the method's module) alone, without a random draw.
    """

    # Answered by the innermost handler directly: `pyro.poutine.runtime.effectful` would show each of the twenty calls
    # of a five-level ladder's step to every plate around it, 2 % of the step.
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        for handler in reversed(_PYRO_STACK):
            if type(handler) is Once:
                return handler.answer(method, args, kwargs)
        return method(*args, **kwargs)

    return call


class Once(Messenger):
    """Answers a repeated call of a function marked `once` with the result of the first call.

    A call is repeated if function and gradient mode are the same, numbers, strings and None are equal and of one type,
    and all other arguments are the same objects.
    """

    # A cache that outlives the evaluation would have to notice every optimiser step, in-place write and changed flag of
    # a parameter. This memory ends with the handler, so nothing has to be invalidated.
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple, tuple[Any, Any]] = {}

    def answer(self, fn: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a call, made now or before."""
        key = _key(fn, args, kwargs)
        found = self.known.get(key)
        if found is None:
            # the arguments are kept alive, so that no later object can take over the identity of one of them
            found = self.known[key] = fn(*args, **kwargs), (args, kwargs)
        return found[0]


def _key(fn: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """A call's function, gradient mode and arguments, as a key."""
    # The mode is in the key, since a result without a graph does not serve a call that wants one; the type, since
    # 1 == 1.0 == True in Python; the identity of a tensor, since a comparison of values would cost a pass over them.
    given = (*args, *kwargs.values()) if kwargs else args
    values = [(type(a), a) if isinstance(a, _PLAIN) else id(a) for a in given]
    return fn, torch.is_grad_enabled(), *kwargs, *values
