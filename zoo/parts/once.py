"""The effect `once`: a computation that guide and model both ask for runs a single time in one evaluation of a pair.

A guide hands its draws to the model, and the model's networks meet the very tensors that the guide's call of them met.
Such a call is marked, and `zoo.infer.terms`, which runs the pair under the handler `Once`, answers the repeated call
with the result of the first. Without the handler (Predictive, NUTS, Pyro's own bounds) a marked call is a plain call.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful


def once(method: Callable) -> Callable:
    """Marks a function or method: a repeated call within one evaluation may return the result of the first.

    The result must depend on the arguments (and the method's module) alone, without a random draw.
    """
    return effectful(method, type="once")


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

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "once":
            found = self.known.get(_key(msg))
            if found is not None:
                msg["value"], msg["done"] = found[0], True

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "once":
            # the arguments are kept alive, so that no later object can take over the identity of one of them
            self.known.setdefault(_key(msg), (msg["value"], (msg["args"], msg["kwargs"])))


def _key(msg: Any) -> tuple:
    """A call's function, gradient mode and arguments, as a key."""
    # The mode is in the key, since a result without a graph does not serve a call that wants one; the type, since
    # 1 == 1.0 == True in Python; the identity of a tensor, since a comparison of values would cost a pass over them.
    given = (*msg["args"], *msg["kwargs"].values())
    values = ((type(a), a) if isinstance(a, bool | int | float | str | None) else id(a) for a in given)
    return msg["fn"], torch.is_grad_enabled(), *msg["kwargs"], *values
