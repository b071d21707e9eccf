"""What is checked about a model/guide pair, so that a wrong bound is an error and not a number.

Structure is looked at once for each shape of the arguments and each combination of training modes: guide and model run
with one particle, and with several before the first run with so many, without gradients, and without moving the random
stream or a buffer. What is found (`Layout`) is all that later runs need. Values are looked at in every run
(`zoo.infer.sites.values`).
"""

import inspect
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from zoo.infer.sites import sets as site_sets
from zoo.infer.sites.auxiliary import check_auxiliary
from zoo.infer.sites.supports import depends_on_latents
from zoo.infer.sites.values import (
    holds,
    outside,
    refuse_drawn,
    refuse_nan,
    refuse_observed,
    same_support,
    support_of,
)
from zoo.parts.aside import buffers_kept, streams_kept


@dataclass(frozen=True)
class Layout:
    """Where a pair's sites stand.

    Attributes:
        batch_plate, batch_dim: name and dim of the plate that holds one datum per index.
        nesting: number of dims that the plates take; the particles stand to the left of them.
        order: all sites, the guide's and then the model's others.
        latents: the model's latent sites that are continuous, in its order.
        auxiliary: guide-only site -> latent site that it serves (Pyro's autoguides).
        point_masses: guide sites that are a point, not a density, over a continuous latent.
        from_model: guide sites that are marked as the model's own conditional.
        no_path: guide sites without a reparameterised sample -> name of their distribution.
        looked: latents whose draws are looked at in each run, as guide and model state other supports.
        in_order: whether the guide draws the latents in the model's order.
        model_takes_index: whether the model has an argument `index` of its own.
        direct: whether model and guide are called past Pyro's parameter store.
        statements: names of the model's own `pyro.param` statements.
        found: what is looked into only when it is asked for (`reordered`, the path check, supports that depend on z).
    """

    batch_plate: str
    batch_dim: int
    nesting: int
    order: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()
    auxiliary: dict[str, str] = field(default_factory=dict)
    point_masses: tuple[str, ...] = ()
    from_model: frozenset[str] = frozenset()
    no_path: dict[str, str] = field(default_factory=dict)
    looked: frozenset[str] = frozenset()
    in_order: bool = True
    model_takes_index: bool = False
    direct: tuple[bool, bool] = (True, True)
    statements: frozenset[str] = frozenset()
    found: dict[str, Any] = field(default_factory=dict)


_CHECKED: "weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, dict[tuple, Layout]]]" = (
    weakref.WeakKeyDictionary()
)


def _modes(fn: Any, before: int = 1) -> int:
    """The modes of all parts of a module as one number of two bits each: is one training, has it `PyroSample`s.

    `modules()` takes five times as long, and a list of them keeps Python's collector busy.
    """
    if not isinstance(fn, nn.Module):
        return before
    attributes = fn.__dict__
    found = 4 * before + 2 * attributes["training"] + bool(attributes.get("_pyro_samples"))
    for part in attributes["_modules"].values():
        if part is not None:
            found = _modes(part, found)
    return found


def program(fn: Any) -> Callable:
    """The bare program of a PyroModule (its `forward`, past the parameter store), or `fn` itself.

    Pyro's context registers every parameter at each call; only a module with `PyroSample` attributes needs it.
    """
    if not isinstance(fn, PyroModule) or any(part.__dict__.get("_pyro_samples") for part in fn.modules()):
        return fn
    return fn.forward


def _kind(value: Any) -> Any:
    """What of an argument may change the program: shape, type and device of a tensor, the value of a switch."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, dict):
        return dict, *[(key, _kind(v)) for key, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), *[_kind(v) for v in value]
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # numpy's arrays
        return type(value), value.shape, value.dtype
    return value if isinstance(value, bool | int | float | str | None) else type(value)


def _anchor(fn: Callable) -> tuple[Any, Any]:
    """What lives as long as the program, and what tells programs of the same anchor apart (bound methods)."""
    return (fn.__self__, fn.__func__) if isinstance(fn, MethodType) else (fn, None)


def check_pair(model: Callable, guide: Callable, args: tuple, kwargs: dict, num_particles: int = 1) -> Layout:
    """The pair's `Layout`; checked at the first call with such arguments and modes, looked up afterwards."""
    if num_particles < 1 or num_particles != int(num_particles):
        raise ValueError(f"num_particles must be an integer >= 1, got {num_particles}")
    (p, p_method), (q, q_method) = _anchor(model), _anchor(guide)
    named = tuple([(n, _kind(v)) for n, v in kwargs.items()]) if kwargs else ()
    kinds = (p_method, q_method, _modes(p), _modes(q), tuple([_kind(v) for v in args]), named)
    try:
        layouts = _CHECKED.setdefault(p, weakref.WeakKeyDictionary()).setdefault(q, {})
    except TypeError:  # a callable without hash or weak references is checked each time
        layouts = {}
    layout = layouts.get(kinds)
    if layout is None:
        layout = layouts[kinds] = look_at(model, guide, args, kwargs)
    if num_particles > 1 and "several" not in layout.found:
        with _aside(model, guide):
            _check_particles(model, guide, args, kwargs, layout, num_particles)
        layout.found["several"] = True
    return layout


def look_at(model: Callable, guide: Callable, args: tuple, kwargs: dict, first_row: int | Tensor = 0) -> Layout:
    """The check itself: of the program, and of the values in these arguments.

    Rows are named as counted from `first_row`, or as their numbers there if it is a tensor.
    """
    try:
        with _aside(model, guide):
            return _look_at(model, guide, args, kwargs, first_row)
    except ValueError as error:
        # models count sequences within the batch, the caller by the rows of the data
        said = re.sub(r"\bsequence (\d+)\b", lambda m: f"sequence {_row(int(m[1]), first_row)}", str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


@contextmanager
def _aside(model: Callable, guide: Callable) -> Iterator[None]:
    """A run that leaves random streams and buffers as they are, without gradients."""
    with streams_kept(), torch.no_grad(), buffers_kept(model, guide):
        yield


def _row(place: int, first_row: int | Tensor) -> int:
    return place + first_row if isinstance(first_row, int) else int(first_row[place])


def _look_at(model: Callable, guide: Callable, args: tuple, kwargs: dict, first_row: int | Tensor) -> Layout:
    for position, value in enumerate(args):
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == 0:
            raise ValueError(f"argument {position}: the batch is empty, shape {tuple(value.shape)}")
    if callable(known := getattr(model, "check_guide", None)):
        known(guide)
    model_takes_index = "index" in kwargs and takes_index(model)
    model_kwargs = {n: v for n, v in kwargs.items() if n != "index" or model_takes_index}
    guide_trace = site_sets.traced(program(guide), args, kwargs)
    drawn = {n: s for n, s in _sites(guide_trace).items() if not s["infer"].get("_deterministic")}
    site_sets.check_drawn(drawn)
    trace = site_sets.traced(poutine.replay(program(model), trace=guide_trace), args, model_kwargs)
    stated = _sites(trace)

    auxiliary = site_sets.check(stated, drawn)
    scored = {n: s for n, s in stated.items() if not s["infer"].get("_deterministic")}
    everywhere = [*scored.items(), *drawn.items()]
    batch = site_sets.batch_plate(everywhere, args)
    for name, site in everywhere:
        _check_site(name, site)
    latents = [n for n, s in scored.items() if not s["is_observed"]]
    nesting = max(-frame.dim for _, site in everywhere for frame in site["cond_indep_stack"] if frame.vectorized)
    layout = Layout(
        batch_plate=batch.name,
        batch_dim=batch.dim,
        nesting=nesting,
        order=(*drawn, *(n for n in scored if n not in drawn)),
        latents=tuple(n for n in latents if not scored[n]["fn"].support.is_discrete),
        auxiliary=auxiliary,
        point_masses=site_sets.point_masses(scored, drawn, auxiliary),
        from_model=site_sets.from_model(scored, drawn),
        no_path={n: site_sets.name_of(s["fn"]) for n, s in drawn.items() if not getattr(s["fn"], "has_rsample", False)},
        looked=frozenset(n for n in latents if not same_support(scored[n]["fn"].support, drawn[n]["fn"].support)),
        in_order=latents == [n for n in drawn if n not in auxiliary],
        model_takes_index=model_takes_index,
        direct=(program(model) is not model, program(guide) is not guide),
        statements=frozenset(n for n, s in trace.nodes.items() if s["type"] == "param"),
    )
    check_values(model, guide, args, kwargs, layout, stated, drawn, first_row)
    refuse_nan_draws(drawn, first_row)
    check_auxiliary(program(guide), guide_trace, args, kwargs, auxiliary, stated)
    return layout


def _sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}


def takes_index(fn: Callable | None) -> bool:
    """Whether a program asks for the numbers of the batch's rows in the data set: it has parameters for each."""
    return fn is not None and "index" in inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn).parameters


def check_values(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict,
    layout: Layout,
    stated: dict[str, Any],
    drawn: dict[str, Any],
    first_row: int | Tensor = 0,
) -> None:
    """Refuses observed values, and draws of the guide, that the model's distributions do not have; names the rows.

    An observed value may lie outside a support that depends on the latents: its weight is then 0, which is right.
    """
    for name, site in stated.items():
        value, support, event = site["value"], support_of(site["fn"]), site["fn"].event_shape
        if value.shape[value.dim() - len(event) :] != event:  # not so when the pair was checked
            _check_site(name, site)
        if not (site["is_observed"] or name in layout.looked) or site["mask"] is False or holds(support, value):
            continue
        refuse_nan(name, site, value, first_row)
        wrong = outside(site, value)
        if not wrong.any():
            continue
        if not site["is_observed"]:
            refuse_drawn(name, site, drawn[name], wrong, first_row)
        if f"support of {name}" not in layout.found:
            with _aside(model, guide):
                found = depends_on_latents(name, program(model), program(guide), args, kwargs, layout.model_takes_index)
            layout.found[f"support of {name}"] = found
        if not layout.found[f"support of {name}"]:
            refuse_observed(name, site, wrong, first_row)


def refuse_nan_draws(drawn: dict[str, Any], first_row: int | Tensor = 0) -> None:
    """Refuses draws of the guide that are NaN; after the observed values, which may be why."""
    for name, site in drawn.items():
        if site["value"].is_floating_point() and site["value"].isnan().any():
            refuse_nan(name, site, site["value"], first_row)


def _check_site(name: str, site: Any, several: str = "") -> None:
    scale = site["scale"]
    if isinstance(scale, Tensor) or scale != 1.0:
        raise ValueError(
            f"site {name!r}: scaled by {scale} (a subsampled plate or poutine.scale). A scaled weight is not a bound: "
            "use a plate of the batch size, and zoo.infer.Tempered to weight the KL"
        )
    fn, value = site["fn"], site["value"]
    expected = fn.batch_shape + fn.event_shape
    plates = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    shape = tuple(plates.get(d, 1) for d in range(min(plates, default=0), 0))
    if tuple(fn.batch_shape) != shape:
        raise ValueError(
            f"site {name!r}{several}: batch shape {tuple(fn.batch_shape)} does not match its plates {shape}; "
            "declare the other axes as the event, with .to_event(...)"
        )
    if site["mask"] is False or not isinstance(value, Tensor):
        return
    fits = value.dim() >= fn.event_dim and value.shape[value.dim() - fn.event_dim :] == fn.event_shape
    try:  # one value may serve several entries of a plate, but must not make the plate larger
        fits = fits and torch.broadcast_shapes(value.shape, expected) == expected
    except RuntimeError:
        fits = False
    if not fits or (value.shape != expected and not site["is_observed"]):
        found = tuple(value.shape)
        raise ValueError(f"site {name!r}{several}: expected values of shape {tuple(expected)}, got {found}")


def _check_particles(
    model: Callable, guide: Callable, args: tuple, kwargs: dict, layout: Layout, num_particles: int
) -> None:
    """Refuses a program that does not run, or has other shapes, with particles in front of the batch."""
    several = f" with {num_particles} particles"
    model_kwargs = {n: v for n, v in kwargs.items() if n != "index" or layout.model_takes_index}
    guide_trace = None
    for fn, named in ((program(guide), kwargs), (program(model), model_kwargs)):
        with poutine.trace() as tracer, nullcontext() if guide_trace is None else poutine.replay(trace=guide_trace):
            try:
                with pyro.plate("num_particles", num_particles, dim=-1 - layout.nesting):
                    fn(*args, **named)
            except Exception as error:
                reached = {*tracer.trace.nodes, *(() if guide_trace is None else guide_trace.nodes)}
                name = next((n for n in layout.order if n not in reached), layout.order[-1])
                raise ValueError(
                    f"site {name!r}{several}: the program fails on the way to it ({type(error).__name__}: {error}). "
                    "Particles stand in front of the batch, (K, N, ...): networks must map the last axes and keep all "
                    "others, so flatten these before a layer that takes one batch axis, and unflatten after it"
                ) from error
        guide_trace = tracer.trace
        for name, site in _sites(tracer.trace).items():
            if not site["infer"].get("_deterministic"):
                _check_site(name, site, several)
