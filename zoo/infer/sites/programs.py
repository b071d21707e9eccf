"""The two programs of a pair, with the arguments of one call."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from numbers import Integral
from operator import attrgetter
from typing import Any, NamedTuple

from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from torch import Tensor, nn

from zoo.parts.aside import trial
from zoo.parts.door import OnFile
from zoo.parts.given.row_numbers import keywords_of


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
    return Programs(program(model), program(guide), args, kwargs, keywords_of(model, kwargs), (model, guide))


Way = Callable[[Any], Callable]  # from a program as the caller holds it to the callable that is run
forward_of: Way = attrgetter("forward")  # for a PyroModule none of whose parts is one


def program(fn: Any) -> Callable:
    """The program of a PyroModule past Pyro's parameter store where that can be, or `fn` itself."""
    return way_of(fn)(fn)


def way_of(fn: Any) -> Way:
    """The way to call a program: `as_it_is`, `forward_of` or `unregistered`."""
    # Calling the module registers every parameter in Pyro's store, at each call: 5 to 10 % of a step, and frozen
    # parameters are unfrozen by it. Only `PyroSample` attributes need that context.
    if not isinstance(fn, PyroModule) or any(part.__dict__.get("_pyro_samples") for part in fn.modules()):
        return as_it_is
    return unregistered if any(isinstance(part, PyroModule) for part in fn.modules() if part is not fn) else forward_of


def as_it_is(fn: Any) -> Callable:
    """The program itself."""
    return fn


def unregistered(fn: Any) -> Callable:
    """The `forward` of a PyroModule, run while its parts' calls leave the store alone."""
    return partial(_without_store, fn)


class _Dormant(_Context):
    """The context that a PyroModule shares with its parts, while nothing switches it on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: Any) -> None:
        pass


def _without_store(module: Any, *args: Any, **kwargs: Any) -> Any:
    # A part that is a PyroModule switches the context on when it is called. Pyro then takes the part's parameters from
    # the store, by name: those of another module of that name, if there was one, in place of its own.
    with _dormant(module):
        return module.forward(*args, **kwargs)


@contextmanager
def _dormant(module: Any) -> Iterator[None]:
    context = module._pyro_context
    kind, context.__class__ = type(context), _Dormant
    try:
        yield
    finally:
        context.__class__ = kind


def methods_callable(module: Any, registered: bool) -> AbstractContextManager[Any]:
    """A context for calls of a program's methods other than `forward`, such as a guide's `classifier`.

    Args:
        registered: show the parameters to Pyro's store, as a call of the program by `pyro.infer.SVI` does.
    """
    if not isinstance(module, PyroModule):
        return nullcontext()
    return module._pyro_context if registered else _dormant(module)


def has_autoguide(guide: Any) -> bool:
    """Tells whether a guide is one of Pyro's autoguides or holds one: it may have parameters for each row, in order."""
    return isinstance(guide, nn.Module) and any(isinstance(part, AutoGuide) for part in guide.modules())


def batch_rows(
    x: Tensor | OnFile, args: tuple, kwargs: dict[str, Any], rows: slice | Tensor
) -> tuple[tuple, dict[str, Any]]:
    """The arguments for some rows: every tensor whose first axis is the batch is cut."""
    size = len(x)

    def cut(value: Any) -> Any:
        batched = isinstance(value, Tensor | OnFile) and value.ndim > 0 and len(value) == size
        return value[rows] if batched else value

    return (x[rows], *map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


_RUNNING = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """A context in which no other thread runs a pair.

    Raises:
        RuntimeError: another thread is running a pair.
    """
    # Two runs at once would write into each other's messages. An error rather than a wait: threads that take
    # turns gain nothing, and a waiting thread gives no sign of it.
    if not _RUNNING.acquire(blocking=False):
        raise RuntimeError(
            "another thread is running a model and a guide. Pyro's handlers are one stack for the whole process, so "
            "two runs at once give wrong numbers: evaluate in one thread, or in several processes"
        )
    try:
        yield
    finally:
        _RUNNING.release()
