"""Reference posteriors in one form: what a guide is held against.

- `exact_reference`: the model offers `posterior(x)`.
- `grid_reference`: one or two latent dimensions, integrated on a grid.
- `nuts_reference`: Pyro's NUTS, for any model without discrete latents and a few data points.
- `hmc_reference`: batched HMC, for many data points with latents of their own.

The samplers give draws in arviz's container, and only after R-hat, effective sample sizes and divergences have been
checked; draws that fail are raised as `NotAReference`, which carries them. `as_reference` brings everything to one
form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES, batch_rows
from zoo.infer.reference.checked import CHAINS, MISSED, NotAReference
from zoo.infer.reference.fingerprint import fingerprint, from_attributes
from zoo.infer.reference.grid import Grid, integrate
from zoo.infer.reference.hmc import hmc_reference
from zoo.infer.reference.inference_data import InferenceData, ess_mean, is_inference_data, posterior_draws
from zoo.infer.reference.log_joint import LogJoint, entries, flatten
from zoo.infer.reference.nuts import nuts_reference
from zoo.parts.aside import held, seeded

__all__ = [
    "NotAReference",
    "Reference",
    "as_reference",
    "exact_reference",
    "grid_reference",
    "hmc_reference",
    "nuts_reference",
]


@dataclass(frozen=True)
class Reference:
    """A posterior known well enough to judge a guide. N: data points, d: entries of all latent sites side by side.

    Attributes:
        kind: how it was found: "exact", "grid", "NUTS", "HMC".
        sites: latent site -> event shape, in the order of the d entries.
        mean, sd: posterior moments, `(N, d)`.
        mean_error: standard error of `mean`, `(N, d)`; 0 where nothing was sampled.
        log_evidence: log p(x), `(N,)` in nats, where it comes with the posterior.
        draws: `(draws, N, d)`; None for a grid.
        log_density: `(z, rows) -> (K, n)`, the normalised log density of the data `rows` (LongTensor `(n,)`) at z
            `(K, n, d)`; None for a sampler.
        log_evidence_error: a bound on the error of `log_evidence`, `(N,)`; None: rounding.
        fingerprint: of the data, the other arguments and the model (`fingerprint.py`); None in draws of one's
            own, of which `compare` and `plot_overlay` check the number of data alone.
    """

    kind: str
    sites: dict[str, torch.Size]
    mean: Tensor
    sd: Tensor
    mean_error: Tensor
    log_evidence: Tensor | None = None
    draws: Tensor | None = None
    log_density: Callable[[Tensor, Tensor], Tensor] | None = None
    log_evidence_error: Tensor | None = None
    fingerprint: dict[str, str] | None = None

    @property
    def coordinates(self) -> list[str]:
        """Names of the d entries: `z[0]`, `z[1]`, ..."""
        return [name for site, event in self.sites.items() for name in entries(site, event)]


def as_reference(found: Reference | InferenceData) -> Reference:
    """Any reference in one form: a `Reference` as it is, draws in an arviz container by their moments.

    Raises:
        ValueError: neither; fewer than four chains, which cannot vouch for each other; draws without an axis of the
            data, of sites that differ in it, or with NaN.
    """
    if isinstance(found, Reference):
        return found
    if not is_inference_data(found):
        raise ValueError(
            "expected a Reference, an arviz.InferenceData or a DataTree with a posterior group, got "
            f"{type(found).__name__}"
        )
    values = posterior_draws(found)
    short = [name for name, value in values.items() if value.dim() < 3]
    if short:
        raise ValueError(
            f"site {short[0]!r}: expected draws of shape (chain, draw, datum, ...), got {tuple(values[short[0]].shape)}"
        )
    for name, value in values.items():
        if len(value) < CHAINS:
            raise ValueError(
                f"site {name!r}: draws of {len(value)} chains; a reference has at least {CHAINS}, started apart (draws "
                "that are known to be independent may be cut into as many)"
            )
        if value.shape[2] != (size := next(iter(values.values())).shape[2]):
            raise ValueError(f"site {name!r}: draws of {value.shape[2]} data, {next(iter(values))!r} has {size}")
        if value.isnan().any():
            raise ValueError(f"site {name!r}: the draws hold NaN")
    draws = flatten(values, 3).double()
    sd = draws.std((0, 1))
    return Reference(
        kind=str((attrs := found["posterior"].attrs).get("sampler", "draws")),
        sites={name: value.shape[3:] for name, value in values.items()},
        mean=draws.mean((0, 1)),
        sd=sd,
        mean_error=sd / ess_mean(draws).sqrt(),
        draws=draws.flatten(0, 1),
        fingerprint=from_attributes(attrs),
    )


class HasPosterior(Protocol):
    """What `exact_reference` reads: a Pyro model with `posterior(x, ...)`, the exact p(z | x), batch shape `(N,)`."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...


@torch.no_grad()
def exact_reference(
    model: HasPosterior, x: Tensor, *args: Any, num_draws: int = 4000, seed: int | None = 0, **kwargs: Any
) -> Reference:
    """The model's own `posterior(x)`, with log p(x) = log p(x, z) - log p(z | x), which holds at every z.

    Args:
        model: a model with one real latent site and `posterior(x, ...)`.
        x, *args, **kwargs: its arguments.
        num_draws, seed: of the draws kept for pictures.

    Raises:
        ValueError: the model has no `posterior`, several latent sites, or a constrained one; a posterior that is not
            the model's, for which log p(x, z) - log p(z | x) varies with z.
    """
    if not callable(getattr(model, "posterior", None)):
        raise ValueError(f"exact_reference: {type(model).__name__} offers no posterior(x); use another reference")
    with held(model), seeded(seed):
        log_joint = _real("exact_reference", LogJoint(model, x, *args, **kwargs))
        if len(log_joint.sites) > 1:
            raise ValueError(f"exact_reference: one latent site, the model has {list(log_joint.sites)}")
        posterior = model.posterior(x, *args, **kwargs)
        z = posterior.mean
        draws = flatten({"z": posterior.sample(torch.Size([num_draws]))})
        log_evidence = log_joint(flatten({"z": z}, 1).unsqueeze(0))[0] - posterior.log_prob(z)
        _check_posterior(log_joint, posterior, draws[:16])

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = batch_rows(x, args, kwargs, rows)
        with torch.no_grad():
            event = model.posterior(*inputs, **named).event_shape
            return model.posterior(*inputs, **named).log_prob(z.reshape(*z.shape[:2], *event))

    mean = flatten({"z": z}, 1)
    sd = flatten({"z": posterior.variance.sqrt()}, 1)
    return Reference(
        kind="exact",
        sites=log_joint.events,
        mean=mean,
        sd=sd,
        mean_error=torch.zeros_like(mean),
        log_evidence=log_evidence,
        draws=draws,
        log_density=log_density,
        fingerprint=fingerprint(model, x, *args, **kwargs),
    )


def _check_posterior(log_joint: LogJoint, posterior: Any, u: Tensor) -> None:
    """Raises ValueError where log p(x, z) - log p(z | x) is not one number at all draws u, up to rounding."""
    values = log_joint(u)
    log_p = values - posterior.log_prob(u.reshape(*u.shape[:2], *posterior.event_shape))
    varies = log_p.amax(0) - log_p.amin(0)
    rounding = 1024 * torch.finfo(values.dtype).eps * values.abs().amax(0)
    bad = (~(varies <= rounding.clamp(min=0.01))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"exact_reference: {type(log_joint.model).__name__}.posterior is not the model's for data {bad[:10]} "
            f"({len(bad)} of {len(varies)}): log p(x, z) - log posterior(z) varies by {varies[bad[0]].item():.3g} nats "
            "over its draws"
        )


@torch.no_grad()
def grid_reference(
    model: Callable,
    x: Tensor,
    *args: Any,
    points: int | None = None,
    tolerance: float = 1e-3,
    max_bytes: int = MAX_BYTES,
    seed: int | None = 0,
    **kwargs: Any,
) -> Reference:
    """The posterior of one or two real latent dimensions by the trapezoid rule, on a grid of its own for each datum.

    Ascents from 64 prior draws find the modes; the box around them then shrinks and grows until it holds every cell
    within `exp(-25)` of the highest density. A smooth density that vanishes at the border is integrated with an error
    that falls exponentially in the number of points; it is measured by leaving out every other point.

    Args:
        model: a Pyro model whose latents have one or two entries for each datum.
        x, *args, **kwargs: its arguments.
        points: on each axis, 9 at least; by default 129 in two dimensions and 1025 in one. Made odd.
        tolerance: accepted change of log p(x), in nats, when every other point is left out.
        max_bytes: bound on the intermediate results of one piece.
        seed: of the prior draws.

    Raises:
        ValueError: more than two dimensions, a constrained site, fewer than 9 points, a tolerance that is not positive.
        NotAReference: the grid is too coarse for some data, misses mass at its border, or meets NaN.
    """
    if points is not None and points < 9:
        raise ValueError(f"grid_reference: points: expected 9 or more on each axis, got {points}")
    if not tolerance > 0:
        raise ValueError(f"grid_reference: tolerance: expected nats above 0, got {tolerance}")
    with held(model), seeded(seed):
        log_joint = _real("grid_reference", LogJoint(model, x, *args, **kwargs))
        if log_joint.dim > 2:
            raise ValueError(
                f"grid_reference: one or two latent dimensions, the model has {log_joint.dim}; use hmc_reference"
            )
        points = (points or (1025 if log_joint.dim == 1 else 129)) // 2 * 2 + 1
        found = integrate(log_joint, points, min(tolerance, MISSED), max_bytes)
    _check_grid(found, points, tolerance)

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = batch_rows(x, args, kwargs, rows)
        with held(model):
            values = LogJoint(model, *inputs, **named).evaluate(z.to(log_joint.dtype), max_bytes)
            return values.double() - found.log_evidence[rows]

    return Reference(
        kind="grid",
        sites=log_joint.events,
        mean=found.mean,
        sd=found.sd,
        mean_error=torch.zeros_like(found.mean),
        log_evidence=found.log_evidence,
        log_density=log_density,
        log_evidence_error=found.halved,
        fingerprint=fingerprint(model, x, *args, **kwargs),
    )


def _check_grid(found: Grid, points: int, tolerance: float) -> None:
    """Raises `NotAReference` with the data of which the grid does not hold the posterior, and why."""
    for wrong, what, why, worst, limit in (
        (~found.halved.isfinite(), "meets NaN", "log p(x, z) is no number somewhere: {0:.3g} nats", found.halved, 0.0),
        (
            found.halved > tolerance,
            "is too coarse",
            "leaving out every other point changes log p(x) by {0:.3g} nats (at most {1:g}). Raise points=",
            found.halved,
            tolerance,
        ),
        (
            found.border > tolerance,
            "is too small",
            "{0:.3g} of the mass stands at the border of its box (at most {1:g}): a heavy tail, or a mode that no "
            "ascent found",
            found.border,
            tolerance,
        ),
        (
            found.coarse > 1.5,
            "is too coarse",
            "a cell is {0:.3g} standard deviations of a narrow mode wide (at most {1:g}). Raise points=",
            found.coarse,
            1.5,
        ),
    ):
        if bad := wrong.nonzero().flatten().tolist():
            raise NotAReference(
                f"the grid of {points} points an axis {what} for data {bad[:10]} ({len(bad)} of {len(wrong)}): "
                + why.format(worst[bad].max().item(), limit),
                None,
            )


def _real(caller: str, log_joint: LogJoint) -> LogJoint:
    constrained = [name for name, site in log_joint.sites.items() if not site.real]
    if constrained:
        raise ValueError(
            f"{caller}: site {constrained[0]!r}: constrained; this takes real latents, hmc_reference takes others"
        )
    return log_joint
