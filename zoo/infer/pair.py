"""The check of a pair's structure, by which a pair that would give a wrong bound is an error and not a number.

Structure is checked once for each form of the arguments (shapes, types, switches) and each combination of training
modes, since these may change the program. Values are looked at in every run (`zoo.infer.sites.values`).
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import Tensor, nn

from zoo.infer.sites.layout import Layout
from zoo.infer.sites.look import check_axes, look
from zoo.infer.sites.programs import Way, programs_of, way_of
from zoo.infer.sites.refusals import FirstRow


@dataclass(frozen=True)
class Pair:
    """The structure of a checked pair, and facts about it that only some runs need.

    Attributes:
        layout: the sites.
        ways: for model and guide, the way past Pyro's parameter store (`zoo.infer.sites.programs`).
        drops_index: True if the arguments hold row numbers `index` and the model does not take them.
        moving: the observed sites whose support is known to move with the latents.
    """

    layout: Layout
    ways: tuple[Way, Way]
    drops_index: bool
    moving: set[str]
    _facts: dict[str, Any] = field(default_factory=dict)

    def fact(self, name: str, find: Callable[[], Any]) -> Any:
        """A fact about the pair's structure: the result of `find()` at the first call with this name, remembered."""
        if name not in self._facts:
            self._facts[name] = find()
        return self._facts[name]


# The one memory of the core: without it a training step takes 1.5 times as long. It holds names and shapes, no tensor,
# and goes with the model and the guide: their programs are its keys, held weakly.
_CHECKED: "weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, dict[tuple, Pair]]]" = (
    weakref.WeakKeyDictionary()
)


def check_pair(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], num_particles: int = 1) -> Pair:
    """The `Pair` of two programs; checked at the first call of its form, looked up afterwards.

    Raises:
        ValueError: the pair does not fit together; names the site and the reason.
    """
    (p, p_method), (q, q_method) = _anchor(model), _anchor(guide)
    named = tuple([(n, _form(v)) for n, v in kwargs.items()]) if kwargs else ()
    form = (p_method, q_method, _modes(p), _modes(q), tuple([_form(v) for v in args]), named)
    try:
        pairs = _CHECKED.setdefault(p, weakref.WeakKeyDictionary()).setdefault(q, {})
    except TypeError:
        # a callable without hash or weak references is checked each time
        pairs = {}
    pair = pairs.get(form)
    if pair is None:
        programs, moving = programs_of(model, guide, args, kwargs), set[str]()
        ways, drops_index = (way_of(model), way_of(guide)), programs.model_kwargs is not kwargs
        layout = look(programs, moving)
        if layout.summed:
            with programs.trial():
                check_axes(programs, layout, 1, summed=True)
        pair = pairs[form] = Pair(layout, ways, drops_index, moving)
    if num_particles > 1:
        pair.fact("several particles", lambda: _look_at_particles(model, guide, args, kwargs, pair, num_particles))
    return pair


def _look_at_particles(model: Callable, guide: Callable, args: tuple, kwargs: dict, pair: Pair, many: int) -> None:
    programs = programs_of(model, guide, args, kwargs)
    with programs.trial():
        check_axes(programs, pair.layout, many)
        if pair.layout.summed:
            check_axes(programs, pair.layout, many, summed=True)


def look_at(model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any], first_row: FirstRow = 0) -> None:
    """Checks the structure of a pair and the values of these arguments, whatever is remembered of the pair.

    Args:
        first_row: number of the batch's first row in the data, or the numbers of all its rows, for errors.

    Raises:
        ValueError: as `check_pair`, or a value that its site cannot have.
    """
    look(programs_of(model, guide, args, kwargs), set(), first_row)


def _anchor(fn: Callable) -> tuple[Any, Any]:
    """The object that lives as long as the program: `(self, function)` of a bound method, else `(fn, None)`."""
    # a bound method is made anew at each access, so a weak reference to it would die at once
    return (fn.__self__, fn.__func__) if isinstance(fn, MethodType) else (fn, None)


def _modes(fn: Any, before: int = 1) -> int:
    """The modes of all parts of a module as one number, two bits each: training, and `PyroSample` attributes."""
    # `modules()` takes five times as long, and a list of modes keeps Python's collector busy; the leading 1 of
    # `before` keeps the zeros of the first parts
    if not isinstance(fn, nn.Module):
        return before
    attributes = fn.__dict__
    modes = 4 * before + 2 * attributes["training"] + bool(attributes.get("_pyro_samples"))
    for part in attributes["_modules"].values():
        if part is not None:
            modes = _modes(part, modes)
    return modes


def _form(value: Any) -> Any:
    """The part of an argument that may change the program: a tensor's shape, type and device, a switch's value."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, dict):
        return dict, *[(key, _form(v)) for key, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), *[_form(v) for v in value]
    # numpy's arrays, without importing numpy
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return type(value), value.shape, value.dtype
    return value if isinstance(value, bool | int | float | str | None) else type(value)
