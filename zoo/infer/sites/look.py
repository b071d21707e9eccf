"""The check of a pair's structure: one run of guide and model with traces, and one more with particles in front.

Neither run changes anything: no gradient, random streams and buffers put back. A later call of the same form needs
only the resulting `Layout`.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.poutine as poutine
from pyro.distributions import Delta
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zoo.infer.sites import sets
from zoo.infer.sites.auxiliary import check_auxiliary
from zoo.infer.sites.layout import Layout
from zoo.infer.sites.programs import Programs
from zoo.infer.sites.refusals import (
    FirstRow,
    check_front,
    check_site,
    name_of,
    refuse_nan_draws,
    refuse_other_dimension,
    refuse_unwound,
    refuse_value,
)
from zoo.infer.sites.summed import AllValues, summed_sites
from zoo.infer.sites.supports import same_support
from zoo.infer.sites.values import bare, doubtful
from zoo.parts.door import refuse_unknown
from zoo.parts.given.gaps import refuse_unmasked


@runtime_checkable
class ChecksGuide(Protocol):
    """A model that refuses guides which do not fit it, before any of the two programs runs."""

    def check_guide(self, guide: Callable) -> None: ...


def look(programs: Programs, moving: set[str], first_row: FirstRow = 0) -> Layout:
    """Checks the structure of a pair and the values of one batch.

    Args:
        moving: the observed sites whose support is known to move with the latents; those that are found are added.
        first_row: number of the batch's first row in the data, or the numbers of all its rows, for errors.

    Raises:
        ValueError: the pair does not fit together, or a value that its site cannot have; names the site.
    """
    try:
        with programs.trial():
            return _look(programs, moving, first_row)
    except ValueError as error:
        # models number the sequences or labels within the batch, the caller numbers the rows of the data
        said = re.sub(r"\b(sequence|datum) (\d+)\b", lambda m: f"{m[1]} {_row(int(m[2]), first_row)}", str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


def _row(place: int, first_row: FirstRow) -> int:
    return place + first_row if isinstance(first_row, int) else int(first_row[place])


def _look(programs: Programs, moving: set[str], first_row: FirstRow) -> Layout:
    model, guide, args, kwargs, model_kwargs, owners = programs
    for position, value in enumerate(args):
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == 0:
            raise ValueError(f"argument {position}: the batch is empty, shape {tuple(value.shape)}")
    refuse_unknown(owners[0], model_kwargs)
    # before a network turns NaN into an error of its own
    refuse_unmasked(owners[0], args, model_kwargs, first_row)
    if isinstance(owners[0], ChecksGuide):
        owners[0].check_guide(owners[1])
    # the guide alone first: wrong sites of the guide would make the model, replayed at them, fail with a stranger error
    guide_trace = sets.traced(guide, args, kwargs)
    drawn = _scored(_sites(guide_trace))
    sets.check_drawn(drawn)
    trace = sets.traced(poutine.replay(model, trace=guide_trace), args, model_kwargs)
    stated = _sites(trace)
    # The sets of sites come before plates, shapes and values: a misspelt site would else be reported as a plate or a
    # shape that is wrong.
    auxiliary, joint = sets.check_together(stated, drawn, *owners)
    scored = _scored(stated)
    layout = _layout(scored, drawn, auxiliary, joint, args, trace)
    for name in doubtful(stated, layout.unlike):
        refuse_value(name, stated[name], drawn.get(name), programs, moving, first_row)
    refuse_nan_draws(drawn, first_row)
    check_auxiliary(programs, guide_trace, auxiliary, stated)
    return layout


def _layout(
    scored: dict[str, Any],
    drawn: dict[str, Any],
    auxiliary: dict[str, str],
    joint: dict[str, tuple[str, ...]],
    args: tuple,
    trace: Any,
) -> Layout:
    """The layout of sites that belong together; checks their plates, shapes and marks.

    Args:
        scored: the model's sites.
        drawn: the guide's sites.
        auxiliary: site of the guide alone -> latent.
        joint: site of the guide alone -> the latents that are cut out of it.
        trace: of the model.
    """
    everywhere = [*scored.items(), *drawn.items()]
    batch = sets.batch_plate(everywhere, args)
    for name, site in everywhere:
        check_site(name, site)
    latents = [n for n, s in scored.items() if not s["is_observed"]]
    outside = sets.outside(scored, drawn, batch) | sets.outside(drawn, scored, batch)
    covered = {latent for together in joint.values() for latent in together}
    if joint and not outside & set(latents):
        raise ValueError(
            f"site {next(iter(joint))!r}: a joint autoguide treats the batch as one latent, so it has no per-datum "
            "weight; use AutoNormal"
        )
    summed = summed_sites(drawn, scored, batch)
    for name in latents:
        refuse_unwound(name, scored[name], drawn[name])
    unlike = frozenset(n for n in latents if not same_support(scored[n]["fn"].support, drawn[n]["fn"].support))
    # the Delta of a latent made of an auxiliary site carries that site's density
    made = {*auxiliary.values(), *covered}
    points = sets.point_masses(scored, drawn, made)
    mixed = frozenset(n for n in latents if _mixed(scored[n]["fn"], drawn[n]["fn"]))
    # a Delta has no density, or that of the auxiliary site that it is made of
    for name in unlike - mixed - {*points, *made}:
        if not scored[name]["fn"].support.is_discrete:
            refuse_other_dimension(name, scored[name], drawn[name])
    return Layout(
        batch_plate=batch.name,
        batch_dim=batch.dim,
        nesting=max(-frame.dim for _, site in everywhere for frame in site["cond_indep_stack"] if frame.vectorized),
        order=(*drawn, *(n for n in scored if n not in drawn)),
        latents=tuple(n for n in latents if not scored[n]["fn"].support.is_discrete),
        auxiliary=auxiliary,
        point_masses=points,
        from_model=sets.from_model(scored, drawn),
        summed=summed,
        no_path={n: name_of(s["fn"]) for n, s in drawn.items() if not s["fn"].has_rsample and n not in summed},
        unlike=unlike,
        mixed=mixed,
        in_order=latents == [n for n in drawn if n not in auxiliary and n not in joint],
        statements=frozenset(n for n, s in trace.nodes.items() if s["type"] == "param"),
        outside=frozenset(outside | covered),
        joint=joint,
    )


def _mixed(p: Any, q: Any) -> bool:
    """Tells whether one of two distributions has probabilities and the other a density; a point has neither."""
    return not isinstance(bare(q), Delta) and p.support.is_discrete != q.support.is_discrete


def _sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}


def _scored(sites: dict[str, Any]) -> dict[str, Any]:
    """The sites that are no `pyro.deterministic`, which Pyro records as an observed Delta."""
    return {n: s for n, s in sites.items() if not s["infer"].get("_deterministic")}


def check_axes(programs: Programs, layout: Layout, num_particles: int, *, summed: bool = False) -> None:
    """Refuses a program that does not run, or has other shapes, with axes in front of the batch.

    Args:
        num_particles: size of the axis of particles; 1 leaves it out.
        summed: the summed sites take all their values, which stand in front of the particles.
    """
    model, guide, args, kwargs, model_kwargs, _ = programs
    said = f" with {num_particles} particles" if num_particles > 1 else ""
    advice = (
        "Particles stand in front of the batch, (K, N, ...): networks must map the last axes and keep all others, so "
        "flatten these before a layer that takes one batch axis, and unflatten after it"
    )
    values = AllValues(layout if summed else replace(layout, summed=()))
    if summed:
        said += f" and all values of {', '.join(map(repr, layout.summed))}" if said else (
            f" with all values of {', '.join(map(repr, layout.summed))}, which is summed out"
        )  # fmt: skip
        advice = (
            "The values of a summed site stand on an axis in front of particles and batch, (values, K, N, ...): "
            "networks must broadcast, as zoo.parts.networks.MultiInput does in place of torch.cat"
        )
    view = _View(layout, num_particles, values, said, advice)
    drawn = _viewed(guide, args, kwargs, nullcontext(), set(), view)
    _viewed(model, args, model_kwargs, poutine.replay(trace=drawn), {*drawn.nodes}, view)


@dataclass(frozen=True)
class _View:
    """The axes in front of the batch in one run of a pair, and words for its errors."""

    layout: Layout
    num_particles: int
    values: AllValues
    said: str
    advice: str


def _viewed(
    fn: Callable, args: tuple, kwargs: dict, replayed: AbstractContextManager, before: set[str], view: _View
) -> Any:
    """The trace of one program with axes in front of the batch.

    Args:
        replayed: the handler under which it runs.
        before: the nodes of the program that has run before it.
    """
    layout, many = view.layout, view.num_particles
    plate = pyro.plate("num_particles", many, dim=-1 - layout.nesting) if many > 1 else nullcontext()
    # the replay answers first: at the guide's values a model need not be able to list its own
    with poutine.trace() as tracer, view.values, replayed:
        try:
            with plate:
                fn(*args, **kwargs)
        except Exception as error:
            reached = before | {*tracer.trace.nodes}
            name = next((n for n in layout.order if n not in reached), layout.order[-1])
            raise ValueError(
                f"site {name!r}{view.said}: the program fails on the way to it ({type(error).__name__}: {error}). "
                f"{view.advice}"
            ) from error
    for name, site in _scored(_sites(tracer.trace)).items():
        if view.values.front:
            check_front(name, site, layout.nesting, (*view.values.front, many), view.said)
        else:
            check_site(name, site, view.said)
    return tracer.trace
