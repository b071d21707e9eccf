"""Evaluation of each latent site: its KL divergence from the prior, whole or by unit, and its active units.

References: Burda, Grosse and Salakhutdinov 2016 (active units); Sonderby et al. 2016 (KL by unit).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from zoo.infer.call import Call
from zoo.infer.per_datum import Terms, mean_over
from zoo.infer.pieces import MAX_BYTES, pieces, with_index
from zoo.infer.sites.programs import alone, batch_rows, check_num_particles, has_autoguide, program
from zoo.infer.sites.refusals import name_of
from zoo.infer.sites.values import bare
from zoo.infer.terms import terms
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_least
from zoo.parts.distributions import DiagonalNormal, IndependentBernoulli, UnitNormal
from zoo.parts.distributions.observed import ObservedEntries
from zoo.parts.door import entered

__all__ = ["ActiveUnits", "active_units", "kl_per_site", "kl_per_unit"]

# rows of one run of a guide, which takes the memory of rows times particles
ROWS = 256


def kl_per_site(
    model: Callable,
    guide: Callable,
    x: Any,
    *args: Any,
    num_particles: int = 100,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """E_q[log q(z_l | ...) - log p(z_l | ...)] of each latent site, by Monte Carlo: site -> `(batch,)`, nats.

    A site outside the batch plate has one value, `()`, in nats for all data; latents that a guide draws together have
    one together, `"w, b"`. The sites add up to KL(q(z | x) || p(z)). The value of one site may be negative where the
    guide draws the site before its parents in the model: it is then no KL divergence by itself.

    Args:
        model, guide, x, *args, **kwargs, num_particles, max_bytes, seed: as in `log_likelihood`.
    """
    x, args, kwargs = entered((model, guide), x, args, kwargs, on_file=True)
    with held(model, guide), seeded(seed):
        found = [*pieces(
            model, guide, x, args, kwargs, num_particles=num_particles, max_bytes=max_bytes, evaluate=_ratios_by_site
        )]  # fmt: skip
        kl = _kl(((rows, ratios) for rows, _, (ratios, _) in found), x, num_particles)
        # every piece of rows has draws of its own of a site outside the plate, and all of them count
        for name in found[0].terms[1]:
            kl[name] = -torch.cat([outside[name] for _, _, (_, outside) in found]).double().mean()
        return kl


def _ratios_by_site(*args: Any, **kwargs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """log p - log q of each site, `(K, batch)`, and of each latent outside the batch plate, `(K,)`."""
    run = terms(*args, **kwargs)
    return _means(run), run.outside


def _means(run: Terms) -> dict[str, Tensor]:
    """log p - log q of each site, a mean over summed sites: site -> `(K, batch)`."""
    return {name: run.over_summed(ratio) for name, ratio in run.log_ratios.items()}


def kl_per_unit(
    model: Callable,
    guide: Callable,
    x: Any,
    *args: Any,
    num_particles: int = 100,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """E_q[log q(z_li | ...) - log p(z_li | ...)] of each unit i, by Monte Carlo: site -> `(batch, *event)`, nats.

    The units of a site add up to its entry of `kl_per_site`, on the same draws for the same seed.

    Args:
        model, guide, x, *args, **kwargs, num_particles, max_bytes, seed: as in `log_likelihood`.

    Raises:
        ValueError: a density of the guide or of the model that is no product over the units; names the site.
    """
    x, args, kwargs = entered((model, guide), x, args, kwargs, on_file=True)
    with held(model, guide), seeded(seed):
        found = pieces(
            model, guide, x, args, kwargs, num_particles=num_particles, max_bytes=max_bytes, evaluate=_ratios_by_unit
        )
        return _kl(((rows, run) for rows, _, run in found), x, num_particles)


def _kl(runs: Iterable[tuple[slice, dict[str, Tensor]]], x: Tensor, num_particles: int) -> dict[str, Tensor]:
    """Means of log q - log p over the particles, from pieces of log p - log q: site -> `(batch, ...)`."""
    out: dict[str, Tensor] = {}
    for rows, ratios in runs:
        for name, ratio in ratios.items():
            shape = (len(x), *ratio.shape[2:])
            site = out.setdefault(name, torch.zeros(shape, dtype=torch.double, device=x.device))
            site[rows] -= ratio.double().sum(0) / num_particles
    return out


def _ratios_by_unit(model: Any, guide: Any, *args: Any, num_particles: int, **kwargs: Any) -> dict[str, Tensor]:
    """log p - log q of each unit: site -> `(K, batch, *event)`."""
    with alone(), (call := Call(model, guide, args, kwargs, num_particles)).shared():
        q = call.record(call.guide, call.kwargs)
        p = call.run_model(q, {name: site["value"] for name, site in q.items()})
        summed = [*call.as_drawn(q, {name: call.log_density(q[name]) for name in call.summed}).values()]
    ratios = {}
    for name in call.layout.latents:
        value, event = q[name]["value"], q[name]["fn"].event_shape
        drawn = name in call.layout.from_model
        # a site that the guide draws from the model has no ratio to speak of, not even one that rounds to zero
        ratio = torch.zeros_like(value) if drawn else _score(p[name], value) - _score(q[name], value)
        flat = ratio.reshape(*ratio.shape[: ratio.dim() - len(event)], -1)
        units = torch.stack([mean_over(summed, unit) for unit in flat.unbind(-1)], -1)
        ratios[name] = units.reshape(num_particles, -1, *event)
    return ratios


def _score(site: Any, value: Tensor) -> Tensor:
    if (found := by_unit(site["fn"], value)) is not None:
        return found
    raise ValueError(
        f"site {site['name']!r}: {name_of(site['fn'])} is no product over the units, so that they have no KL each; "
        "kl_per_site gives that of the whole site"
    )


def by_unit(fn: Any, value: Tensor) -> Tensor | None:
    """The log densities of a distribution's units at a value, in its shape; None of one that is no product of them."""
    if isinstance(fn, DiagonalNormal | UnitNormal):
        return Normal(fn.mean, fn.variance.sqrt(), validate_args=False).log_prob(value)
    if isinstance(fn, IndependentBernoulli):
        return Bernoulli(logits=fn.logits, validate_args=False).log_prob(value)
    if isinstance(fn, ObservedEntries):
        found = by_unit(fn.p, value)
        return None if found is None else found.masked_fill(~fn.mask_of_entries, 0.0)
    if isinstance(fn, Independent):
        return by_unit(fn.base_dist, value)
    return None if fn.event_shape else fn.log_prob(value)


class ActiveUnits(NamedTuple):
    """Burda's rule for one site: the variance over the data of the posterior mean, and True where it is large enough.

    Both have the shape of one latent, `(*event)`.
    """

    variance: Tensor
    active: Tensor


def active_units(
    guide: Callable,
    x: Any,
    *args: Any,
    threshold: float = 0.01,
    num_particles: int = 100,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, ActiveUnits]:
    """Var_x(E_q[z | x]) > threshold: the latent dimensions that the guide uses, for each latent site.

    The posterior mean is an average over particles: of the site's own mean where its distribution has one (one latent
    layer: no Monte Carlo error), and of its draws otherwise. The Monte Carlo variance of this average is subtracted, so
    that few particles do not make an unused unit active; the result may therefore be slightly below 0. A site outside
    the batch plate has no mean for each datum and is left out.

    Args:
        guide: any guide; the model is not needed.
        x, *args, **kwargs: the guide's arguments; at least two data.
        threshold: 0.01 in the literature.
        num_particles: at least 2.
        seed: as in `log_likelihood`.

    Raises:
        ValueError: fewer than two data or particles; no site in the batch plate.
        TypeError: x holds no numbers.
    """
    check_num_particles(num_particles)
    check_least(0, threshold=threshold)
    x, args, kwargs = entered((guide,), x, args, kwargs, on_file=True)
    if len(x) < 2:
        raise ValueError(f"active_units takes a variance over the data: {len(x)} are too few")
    if num_particles < 2:
        raise ValueError(f"num_particles must be at least 2, to tell data from noise; got {num_particles}")
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    with held(guide), seeded(seed), torch.no_grad():
        # Pyro's autoguides hold parameters of every row, in order, and are run on all rows
        step = len(x) if has_autoguide(guide) else ROWS
        keywords = with_index(guide, x, kwargs)
        for start in range(0, len(x), step):
            inputs, named = batch_rows(x, args, keywords, slice(start, start + step))
            for name, values in _site_means(guide, inputs, named, num_particles):
                means.setdefault(name, []).append(values.mean(0))
                noise.setdefault(name, []).append(values.var(0) / num_particles)
    out = {}
    for name, chunks in means.items():
        variance = torch.cat(chunks).var(0) - torch.cat(noise[name]).mean(0)
        out[name] = ActiveUnits(variance, variance > threshold)
    return out


def _site_means(guide: Callable, inputs: tuple, named: dict, num_particles: int) -> Iterator[tuple[str, Tensor]]:
    """For each latent site its conditional means (or draws), `(K, batch, *event)`, in float64."""
    # a plain run first: the particles' plate must stand left of all plates that the guide uses
    call = program(guide)
    plain = poutine.trace(call).get_trace(*inputs, **named)
    frames = [f for site in plain.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
    dim = min((f.dim for f in frames if f.vectorized), default=-1) - 1
    with pyro.plate("num_particles", num_particles, dim=dim):
        trace = poutine.trace(call).get_trace(*inputs, **named)
    outside = ""
    found = 0
    for name in trace.stochastic_nodes:
        site = trace.nodes[name]
        # the mean of a class's number says nothing
        labels = isinstance(bare(site["fn"]), Categorical)
        if site["infer"].get("is_auxiliary") or site_is_subsample(site) or labels:
            continue
        batch = [f.dim for f in site["cond_indep_stack"] if f.size == len(inputs[0]) and f.name != "num_particles"]
        if not batch:
            outside = name
            continue
        found += 1
        value, event = site["value"], site["fn"].event_dim
        # a flow has no mean in closed form, so its draws are averaged
        with suppress(NotImplementedError):
            value = site["fn"].mean.expand(value.shape)
        yield name, value.double().movedim(batch[-1] - event, 1)
    if outside and not found:
        raise ValueError(
            f"site {outside!r}: stands outside the batch plate, so it has no posterior mean for each datum"
        )
