"""The two programs of a pair, with the arguments of one call."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any, NamedTuple

from pyro.nn import PyroModule
from torch import nn

from zoo.parts.aside import trial


class Programs(NamedTuple):
    """`model(*args, **model_kwargs)` and `guide(*args, **kwargs)`, both past Pyro's parameter store where they can be.

    Attributes:
        model_kwargs: `kwargs`, without the row numbers `index` if the model does not take them.
        owners: model and guide as the caller holds them: the modules whose buffers a run may move.
    """

    model: Callable
    guide: Callable
    args: tuple
    kwargs: dict[str, Any]
    model_kwargs: dict[str, Any]
    owners: tuple[Any, Any]

    def trial(self) -> AbstractContextManager[None]:
        """A context in which runs of the two programs change nothing: no gradient, streams and buffers put back."""
        return trial(*self.owners)


def check_num_particles(num_particles: Any, whose: str = "") -> int:
    """The number of particles as an integer.

    Args:
        whose: words that open the error, such as "ELBO: ".

    Raises:
        ValueError: no integer >= 1.
    """
    if isinstance(num_particles, bool) or not isinstance(num_particles, Integral) or num_particles < 1:
        raise ValueError(f"{whose}num_particles must be an integer >= 1, got {num_particles!r}")
    return int(num_particles)


def programs_of(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]) -> Programs:
    """The bare programs of a pair with the arguments of each."""
    theirs = kwargs
    if "index" in kwargs and not takes_index(model):
        theirs = {name: value for name, value in kwargs.items() if name != "index"}
    return Programs(program(model), program(guide), args, kwargs, theirs, (model, guide))


def program(fn: Any) -> Callable:
    """The `forward` of a PyroModule without `PyroSample` attributes, or `fn` itself."""
    # Calling the module registers every parameter in Pyro's store, at each call: 5 to 10 % of a step, and frozen
    # parameters are unfrozen by it. Only `PyroSample` attributes need that context.
    if not isinstance(fn, PyroModule) or any(part.__dict__.get("_pyro_samples") for part in fn.modules()):
        return fn
    return fn.forward


def takes_index(fn: Callable | None) -> bool:
    """Tells whether a program asks for `index`, the numbers of the batch's rows: it has parameters for each row."""
    return fn is not None and "index" in inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn).parameters
