"""Draws of any guide in arviz's container, with all that arviz's own checks of a posterior ask for.

References:
    Gelman, Meng and Stern 1996 (posterior predictive checks);
    Vehtari, Simpson, Gelman, Yao and Gabry 2024 (Pareto smoothed importance sampling).
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.infer.call import Call, Purpose, alone
from zoo.infer.evaluation.latents import by_unit
from zoo.infer.pieces import MAX_BYTES, pieces
from zoo.infer.reference.inference_data import InferenceData, pareto_smoothed, to_inference_data
from zoo.infer.sites.refusals import name_of
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_counts
from zoo.parts.door import entered
from zoo.parts.given.conditions import program_arguments

__all__ = ["posterior_draws"]

# Fewer draws have no tail to smooth, and no k-hat.
LEAST_SMOOTHED = 30


class _Drawn(NamedTuple):
    """Draws for some rows: site -> `(K, n, ...)`, of sites that all data share `(K, ...)`; log weights `(K, n)`."""

    latents: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    predicted: dict[str, Tensor]
    observed: dict[str, Tensor]
    log_weights: Tensor
    shared: frozenset[str]


def posterior_draws(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *args: Any,
    num_draws: int = 1000,
    weighted: bool = False,
    resampled: bool = False,
    oversampling: int = 10,
    entries: bool = False,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> InferenceData:
    """Draws of a guide, replicated data and log-likelihoods in arviz's container, for its checks and figures.

    `arviz.loo`, `loo_pit`, `plot_ppc` and others take the container as it is. With latents of its own, leaving a datum
    out leaves the prior: `loo` is then a harmonic mean of log p(x), of large variance, and `log_likelihood` the better
    estimate. With `entries`, one entry of x is left out and its datum's others still inform z, which is what `loo_pit`
    wants. A model that feeds x back replicates each frame given the frames that were observed before it. A latent
    outside the batch plate has one value for all data, and a draw is then one of all latents together.

    Args:
        model, guide: the pair; see `zoo.infer.terms`.
        x, *args, **kwargs: the arguments of both.
        num_draws: of each datum.
        weighted: adds log importance weights, Pareto-smoothed and normalised over the draws, as `log_weight`.
        resampled: importance resampling: of `oversampling` times as many draws, `num_draws` are chosen with
            probabilities by their smoothed weights, with replacement. Nearer to p(z | x) while k-hat is below 0.7.
        oversampling: see `resampled`.
        entries: scores each entry of x by itself.
        max_bytes: as in `log_likelihood`.
        seed: starts a random stream of the call's own; None uses and advances the caller's.

    Returns:
        The groups `posterior`, `posterior_predictive` and `log_likelihood`, `(chain, draw, datum, ...)` with one chain,
        without `datum` for sites outside the batch plate; and `observed_data`, with NaN in the entries under a mask,
        which score 0; `sample_stats` with `log_weight` of weighted draws. The posterior has the attribute `pareto_k`,
        of each datum, where weights were asked for.

    Raises:
        ValueError: a count below 1, `weighted` and `resampled` together, or fewer than 30 draws to smooth; a pair that
            does not fit together; `entries` of a likelihood that is no product over them; weights of a pair with a
            latent outside the batch plate, whose data have no weight each.
        TypeError: x is not a tensor.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import posterior_draws
        >>> model = VAE(6, 2)
        >>> posterior_draws(model, guides.Amortized(model), torch.ones(3, 6), num_draws=50)["posterior"]["z"].shape
        (1, 50, 3, 2)
    """
    x, args, kwargs = entered((model, guide), x, args, kwargs)
    check_counts(num_draws=num_draws, oversampling=oversampling)
    if weighted and resampled:
        raise ValueError("posterior_draws: weighted and resampled: resampled draws have equal weights; ask for one")
    count = num_draws * oversampling if resampled else num_draws
    if (weighted or resampled) and count < LEAST_SMOOTHED:
        raise ValueError(f"num_draws: weights are smoothed over {LEAST_SMOOTHED} draws or more, got {count}")
    found: list[_Drawn] = []
    k: list[Tensor] = []
    with held(model, guide), seeded(seed):
        run = partial(_drawn, entries=entries, outside=not (weighted or resampled))
        options: dict[str, Any] = {"num_particles": count, "max_bytes": max_bytes, "evaluate": run, "together": True}
        # pieces of the same rows follow each other, and weights are of all their draws together
        for _, group in groupby(pieces(model, guide, x, args, kwargs, **options), key=lambda piece: piece.rows.start):
            drawn = _joined([piece.terms for piece in group], 0)
            if weighted or resampled:
                log_weights, shape = pareto_smoothed(drawn.log_weights)
                k.append(shape)
                drawn = _chosen(drawn, log_weights, num_draws) if resampled else drawn._replace(log_weights=log_weights)
            found.append(drawn)
    every = _joined(found, 1)
    mask = (dict(zip(program_arguments(model), args, strict=False)) | kwargs).get("mask")
    attrs: dict[str, object] = {"sampler": name_of(guide)} | ({"pareto_k": torch.cat(k).numpy()} if k else {})
    return to_inference_data(
        _one_chain(every.latents),
        sample_stats=_one_chain({"log_weight": every.log_weights}) if weighted else None,
        observed=_with_gaps(every.observed, mask),
        predictive=_one_chain(every.predicted),
        log_likelihood=_one_chain(every.log_likelihood),
        shared=every.shared,
        attrs=attrs,
    )


def _one_chain(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.unsqueeze(0) for name, value in values.items()}


def _drawn(
    model: Callable, guide: Callable, *args: Any, num_particles: int, entries: bool, outside: bool, **kwargs: Any
) -> _Drawn:
    """Latents of the guide, and data of the model at them."""
    purpose = Purpose(sample_all=True, outside=outside)
    with alone(), (call := Call(model, guide, args, kwargs, num_particles, purpose)).shared():
        q = call.record(call.guide, call.kwargs)
        values = {name: site["value"] for name, site in q.items()}
        p = call.run_model(q, values)
        log_q = {name: call.log_density(q[name]) for name in call.scored(q)}
        run = call.add_up(p, q, values, log_q, call.as_drawn(q, log_q))
    if not values:
        raise ValueError(f"{type(model).__name__} has no latent site of the guide's, so there is nothing to draw")
    seen = {name: site for name, site in p.items() if site["is_observed"]}
    shared = frozenset(name for name, site in (seen | q).items() if _is_shared(site, call))
    scored, predicted, observed = {}, {}, {}
    for name, site in seen.items():
        log_p = _ordered(_of_entries(site), site, call) if entries else call.log_density(site)
        scored[name] = log_p if entries or name in shared else log_p.expand(run.log_weights.shape)
        # a likelihood that does not depend on z is drawn once for each particle too
        front = (num_particles,) if num_particles > 1 else ()
        predicted[name] = _ordered(site["fn"].expand((*front, *_sizes(site, call))).sample(), site, call)
        observed[name] = _ordered(site["value"], site, call)[0]
    latents = {name: _ordered(q[name]["value"], q[name], call) for name in run.latents}
    return _Drawn(_cpu(latents), _cpu(scored), _cpu(predicted), _cpu(observed), run.log_weights.cpu(), shared)


def _frames(site: Any, call: Call) -> list[Any]:
    """The plates of a site, the batch plate first, the others from the outermost on."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles"]
    return sorted(frames, key=lambda frame: (frame.name != call.layout.batch_plate, frame.dim))


def _is_shared(site: Any, call: Call) -> bool:
    return all(frame.name != call.layout.batch_plate for frame in _frames(site, call))


def _sizes(site: Any, call: Call) -> list[int]:
    """The sizes of all dims of plates, 1 where the site stands in none."""
    sizes = {frame.dim: frame.size for frame in _frames(site, call)}
    return [sizes.get(dim, 1) for dim in range(-call.layout.nesting, 0)]


def _ordered(value: Tensor, site: Any, call: Call) -> Tensor:
    """A site's values as `(K, N, *other plates, *event)`, of a site that all data share `(K, *plates, *event)`."""
    frames, event, nesting = _frames(site, call), site["fn"].event_shape, call.layout.nesting
    full = value.expand(call.num_particles, *_sizes(site, call), *event)
    full = full.movedim([1 + nesting + frame.dim for frame in frames], [*range(1, 1 + len(frames))])
    return full.reshape(call.num_particles, *[frame.size for frame in frames], *event)


def _cpu(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def _with_gaps(observed: dict[str, Tensor], mask: Any) -> dict[str, Tensor]:
    """The observed values, with NaN in the entries of x that were not observed, which the program has filled."""
    if not isinstance(mask, Tensor) or "x" not in observed:
        return observed
    x = observed["x"]
    # a model that is given its first frames (GTMSM) has the others at its site
    seen = mask.cpu()[:, mask.shape[1] - x.shape[1] :]
    seen = seen.reshape(*seen.shape, *[1] * (x.dim() - seen.dim()))
    return observed | {"x": torch.where(seen, x, torch.nan)}


def _of_entries(site: Any) -> Tensor:
    found = by_unit(site["fn"], site["value"])
    if found is None:
        raise ValueError(
            f"site {site['name']!r}: {name_of(site['fn'])} is no product over its entries, so that they have no "
            "log-likelihood each; entries=False scores the whole site"
        )
    return found


def _joined(parts: list[_Drawn], axis: int) -> _Drawn:
    """Draws laid end to end: of the same rows along the particles, 0, of different rows along the data, 1."""

    def join(several: list[dict[str, Tensor]], axis: int) -> dict[str, Tensor]:
        return {name: torch.cat([one[name] for one in several], axis) for name in several[0]}

    # draws of sites that all data share come in pieces of all rows alone
    if len(parts) == 1:
        return parts[0]
    return _Drawn(
        join([one.latents for one in parts], axis),
        join([one.log_likelihood for one in parts], axis),
        join([one.predicted for one in parts], axis),
        join([one.observed for one in parts], 0) if axis else parts[0].observed,
        torch.cat([one.log_weights for one in parts], axis),
        parts[0].shared,
    )


def _chosen(drawn: _Drawn, log_weights: Tensor, num_draws: int) -> _Drawn:
    """Draws chosen for each datum with probabilities by their weights, with replacement."""
    chosen = torch.multinomial(log_weights.exp().T, num_draws, replacement=True).T  # (num_draws, n)
    rows = torch.arange(chosen.shape[1])

    def take(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[chosen, rows] for name, value in values.items()}

    equal = torch.zeros_like(chosen, dtype=log_weights.dtype)
    return _Drawn(
        take(drawn.latents), take(drawn.log_likelihood), take(drawn.predicted), drawn.observed, equal, drawn.shared
    )
