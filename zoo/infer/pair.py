"""What is checked once about a model/guide pair, so that a wrong bound is an error and not a number.

The check runs guide and model once for each new shape of their arguments, without gradients and without moving the
random stream, and raises `ValueError` with the site's name and the reason. What it finds (`Layout`) is all that later
runs need.
"""

import difflib
import inspect
import re
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer.inspect import get_dependencies
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where a pair's sites stand.

    Attributes:
        batch_plate, batch_dim: name and dim of the plate that holds one datum per index.
        nesting: number of dims that the plates take; the particles stand to the left of them.
        auxiliary: guide-only site -> latent site that it serves (Pyro's autoguides).
        no_path: guide sites without a reparameterised sample -> name of their distribution.
        in_order: whether the guide draws the latents in the model's order.
        model_takes_index: whether the model has an argument `index` of its own.
        found: what is looked into only when an objective asks for it (`reordered`, the path check).
    """

    batch_plate: str
    batch_dim: int
    nesting: int
    auxiliary: dict[str, str] = field(default_factory=dict)
    no_path: dict[str, str] = field(default_factory=dict)
    in_order: bool = True
    model_takes_index: bool = False
    found: dict[str, Any] = field(default_factory=dict)


_CHECKED: "weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, dict[tuple, Layout]]]" = (
    weakref.WeakKeyDictionary()
)
_DIRECT: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def program(fn: Callable) -> Callable:
    """The bare program of a PyroModule (its `forward`, past the parameter store), or `fn` itself.

    Pyro's context registers every parameter at each call; only a module with `PyroSample` attributes needs it.
    """
    direct = _DIRECT.get(fn) if isinstance(fn, PyroModule) else False
    if direct is None:
        direct = not any(m._pyro_samples for m in fn.modules() if isinstance(m, PyroModule))
        _DIRECT[fn] = direct
    return fn.forward if direct else fn


def _kind(value: Any) -> Any:
    """What of an argument may change the program: shape, type and device of a tensor, the value of a switch."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    return value if isinstance(value, bool | int | float | str | None) else type(value)


def _anchor(fn: Callable) -> tuple[Any, Any]:
    """What lives as long as the program, and what tells programs of the same anchor apart (bound methods)."""
    return (fn.__self__, fn.__func__) if isinstance(fn, MethodType) else (fn, None)


def check_pair(model: Callable, guide: Callable, args: tuple, kwargs: dict, num_particles: int = 1) -> Layout:
    """The pair's `Layout`; checked at the first call with such arguments, looked up afterwards."""
    if num_particles < 1 or num_particles != int(num_particles):
        raise ValueError(f"num_particles must be an integer >= 1, got {num_particles}")
    (p, p_method), (q, q_method) = _anchor(model), _anchor(guide)
    kinds = (p_method, q_method, tuple(map(_kind, args)), tuple((n, _kind(v)) for n, v in kwargs.items()))
    try:
        layouts = _CHECKED.setdefault(p, weakref.WeakKeyDictionary()).setdefault(q, {})
    except TypeError:  # a callable without hash or weak references is checked each time
        return look_at(model, guide, args, kwargs)
    layout = layouts.get(kinds)
    if layout is None:
        layout = layouts[kinds] = look_at(model, guide, args, kwargs)
    return layout


def look_at(model: Callable, guide: Callable, args: tuple, kwargs: dict, first_row: int | Tensor = 0) -> Layout:
    """The check itself: of the program, and of the values in these arguments.

    Rows are named as counted from `first_row`, or as their numbers there if it is a tensor.
    """
    try:
        return _look_at(model, guide, args, kwargs, first_row)
    except ValueError as error:
        # models count sequences within the batch, the caller by the rows of the data
        said = re.sub(r"\bsequence (\d+)\b", lambda m: f"sequence {_row(int(m[1]), first_row)}", str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


def _row(place: int, first_row: int | Tensor) -> int:
    return place + first_row if isinstance(first_row, int) else int(first_row[place])


def _look_at(model: Callable, guide: Callable, args: tuple, kwargs: dict, first_row: int | Tensor) -> Layout:
    for position, value in enumerate(args):
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == 0:
            raise ValueError(f"argument {position}: the batch is empty, shape {tuple(value.shape)}")
    if callable(known := getattr(model, "check_guide", None)):
        known(guide)
    takes_index = "index" in kwargs and _takes_index(model)
    model_kwargs = {n: v for n, v in kwargs.items() if n != "index" or takes_index}
    cuda = {value.device.index for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_cuda}
    with torch.random.fork_rng(devices=sorted(i for i in cuda if i is not None)), torch.no_grad():
        guide_trace = poutine.trace(program(guide)).get_trace(*args, **kwargs)
        drawn = {n: s for n, s in guide_trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
        drawn = {n: s for n, s in drawn.items() if not s["infer"].get("_deterministic")}
        replayed = poutine.replay(program(model), trace=guide_trace)
        trace = poutine.trace(replayed).get_trace(*args, **model_kwargs)
        stated = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}

    auxiliary = _check_site_sets(stated, drawn)
    scored = {n: s for n, s in stated.items() if not s["infer"].get("_deterministic")}
    everywhere = [*scored.items(), *drawn.items()]
    batch = _batch_plate(everywhere, args)
    for name, site in everywhere:
        _check_site(name, site, first_row)
    latents = [n for n, s in scored.items() if not s["is_observed"]]
    order = [n for n in drawn if n not in auxiliary]
    nesting = max(-frame.dim for _, site in everywhere for frame in site["cond_indep_stack"] if frame.vectorized)
    return Layout(
        batch_plate=batch.name,
        batch_dim=batch.dim,
        nesting=nesting,
        auxiliary=auxiliary,
        no_path={n: _name(s["fn"]) for n, s in drawn.items() if not getattr(s["fn"], "has_rsample", False)},
        in_order=latents == order,
        model_takes_index=takes_index,
    )


def _takes_index(model: Callable) -> bool:
    return "index" in inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model).parameters


def _name(fn: Any) -> str:
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__


def nearest(word: str, words: Iterable[str]) -> str:
    """', did you mean ...?' for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _check_site_sets(stated: dict[str, Any], drawn: dict[str, Any]) -> dict[str, str]:
    latents = {n for n, s in stated.items() if not s["is_observed"]}
    auxiliary: dict[str, str] = {}
    for name, site in drawn.items():
        if site["is_observed"]:
            raise ValueError(f"site {name!r}: the guide observes a value; a guide only samples")
        if site["infer"].get("enumerate"):
            raise ValueError(f"site {name!r}: enumerated in the guide, not summed out here: use TraceEnum_ELBO")
        if name in latents:
            continue
        if site["infer"].get("is_auxiliary"):
            served = name.removesuffix("_unconstrained")
            auxiliary[name] = served if served in latents else name
        elif name in stated:
            raise ValueError(f"site {name!r}: sampled by the guide but observed in the model")
        else:
            raise ValueError(
                f"site {name!r}: sampled by the guide but not a latent site of the model {sorted(latents)}"
                f"{nearest(name, latents)}"
            )
    for name in latents - drawn.keys():
        if stated[name]["infer"].get("enumerate"):
            raise ValueError(
                f"site {name!r}: enumerated in the model. These objectives do not sum a site out: use TraceEnum_ELBO, "
                "the model's own log_prob, or a guide that samples it (guides.Exact)"
            )
        raise ValueError(
            f"site {name!r}: a latent site of the model that the guide does not sample; it samples {sorted(drawn)}"
        )
    return auxiliary


def _batch_plate(sites: list[tuple[str, Any]], args: tuple) -> Any:
    """The vectorised plate in which every site stands; the one of the batch's size if there are several."""
    frames = [{f for f in s["cond_indep_stack"] if f.vectorized} for _, s in sites]
    size = next((len(a) for a in args if isinstance(a, Tensor) and a.dim()), None)
    common = set.intersection(*frames) if frames else set()
    seen = set.union(*frames) if frames else set()
    if not sites:
        raise ValueError("the model has no sample site")
    if not seen:
        name = sites[0][0]
        raise ValueError(f'site {name!r}: no site stands in a plate; put all in one `pyro.plate("data", len(x))`')
    if not common:
        count = {frame: sum(frame in f for f in frames) for frame in seen}
        most = max(seen, key=lambda frame: (frame.size == size, count[frame]))
        outside = next(name for (name, _), f in zip(sites, frames, strict=True) if most not in f)
        joint = outside.startswith("_Auto")
        hint = " (a joint autoguide treats the batch as one latent; use AutoNormal)" if joint else ""
        elsewhere = next((f.name for f in frames[[n for n, _ in sites].index(outside)]), None)
        if elsewhere is not None and not joint:
            hint = f" (it stands in plate {elsewhere!r}: model and guide must give the batch plate one name)"
        raise ValueError(
            f"site {outside!r}: stands outside the batch plate {most.name!r}, so it has no per-datum weight{hint}. "
            "All sites must stand in one plate of the batch size"
        )
    return max(common, key=lambda frame: (frame.size == size, frame.name == "data", -frame.dim))


def _check_site(name: str, site: Any, first_row: int | Tensor) -> None:
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
            f"site {name!r}: batch shape {tuple(fn.batch_shape)} does not match its plates {shape}; "
            "declare the other axes as the event, with .to_event(...)"
        )
    mask = site["mask"]
    if mask is False or not isinstance(value, Tensor):
        return
    fits = value.dim() >= fn.event_dim and value.shape[value.dim() - fn.event_dim :] == fn.event_shape
    try:  # one value may serve several entries of a plate, but must not make the plate larger
        fits = fits and torch.broadcast_shapes(value.shape, expected) == expected
    except RuntimeError:
        fits = False
    if not fits or (value.shape != expected and not site["is_observed"]):
        raise ValueError(f"site {name!r}: expected values of shape {tuple(expected)}, got {tuple(value.shape)}")
    value = value.expand(expected)
    scored = torch.ones(fn.batch_shape, dtype=torch.bool, device=value.device)
    if isinstance(mask, Tensor):
        scored = scored & mask
    nan = torch.isnan(value).reshape(*fn.batch_shape, -1).any(-1)
    if (nan & scored).any():
        raise ValueError(f"site {name!r}: the value is NaN in rows {_rows(nan & scored, first_row)}")
    if site["is_observed"]:
        inside = fn.support.check(value)
        if not inside[scored].all():
            outside = ~inside & scored
            raise ValueError(
                f"site {name!r}: {_name(fn)} has support {fn.support}, the observed values lie outside in rows "
                f"{_rows(outside, first_row)} (values between {value.min().item():.4g} and {value.max().item():.4g}). "
                "Grey pixels need binarising (zoo.data.Binarized) or another likelihood"
            )


def _rows(wrong: Tensor, first_row: int | Tensor) -> str:
    found = wrong.nonzero()[:, 0].unique()
    rows = (found + first_row if isinstance(first_row, int) else first_row[found]).tolist()
    return f"{rows[:5]}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def reordered(model: Callable, guide: Callable, args: tuple, kwargs: dict, model_kwargs: dict) -> dict[str, str]:
    """Latents of which a parent in the model is a descendant in the guide: E_q[log q/p] is no KL at fixed parents."""
    parents = get_dependencies(program(model), args, model_kwargs)["prior_dependencies"]
    direct = get_dependencies(program(guide), args, kwargs)["prior_dependencies"]
    ancestors: dict[str, set[str]] = {}
    for name in direct:
        above = set(direct.get(name, ())) - {name}
        ancestors[name] = above.union(*(ancestors.get(a, set()) for a in above))
    return {z: parent for z in direct for parent in set(parents.get(z, ())) - {z} if z in ancestors.get(parent, set())}
