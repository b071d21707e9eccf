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

from zoo.infer.chunks import MAX_BYTES, batch_rows, held, seeded
from zoo.infer.hmc import hmc_reference
from zoo.infer.inference_data import InferenceData, ess_mean, is_inference_data, posterior_draws
from zoo.infer.log_joint import LogJoint, entries, flatten
from zoo.infer.nuts import NotAReference, nuts_reference

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
    """

    kind: str
    sites: dict[str, torch.Size]
    mean: Tensor
    sd: Tensor
    mean_error: Tensor
    log_evidence: Tensor | None = None
    draws: Tensor | None = None
    log_density: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def coordinates(self) -> list[str]:
        """Names of the d entries: `z[0]`, `z[1]`, ..."""
        return [name for site, event in self.sites.items() for name in entries(site, event)]


def as_reference(found: Reference | InferenceData) -> Reference:
    """Any reference in one form: a `Reference` as it is, draws in an arviz container by their moments."""
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
    draws = flatten(values, 3).double()
    sd = draws.std((0, 1))
    return Reference(
        kind=str(found["posterior"].attrs.get("sampler", "draws")),
        sites={name: value.shape[3:] for name, value in values.items()},
        mean=draws.mean((0, 1)),
        sd=sd,
        mean_error=sd / ess_mean(draws).sqrt(),
        draws=draws.flatten(0, 1),
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
        ValueError: the model has no `posterior`, several latent sites, or a constrained one.
    """
    if not callable(getattr(model, "posterior", None)):
        raise ValueError(f"exact_reference: {type(model).__name__} offers no posterior(x); use another reference")
    with held(model), seeded(x.device, seed):
        log_joint = _real(LogJoint(model, x, *args, **kwargs))
        if len(log_joint.sites) > 1:
            raise ValueError(f"exact_reference: one latent site, the model has {list(log_joint.sites)}")
        posterior = model.posterior(x, *args, **kwargs)
        z = posterior.mean
        draws = flatten({"z": posterior.sample(torch.Size([num_draws]))})
        log_evidence = log_joint(flatten({"z": z}, 1).unsqueeze(0))[0] - posterior.log_prob(z)

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = batch_rows(x, args, kwargs, rows)
        with torch.no_grad():
            event = model.posterior(*inputs, **named).event_shape
            return model.posterior(*inputs, **named).log_prob(z.reshape(*z.shape[:2], *event))

    mean = flatten({"z": z}, 1)
    sd = flatten({"z": posterior.variance.sqrt()}, 1)
    return Reference("exact", log_joint.events, mean, sd, torch.zeros_like(mean), log_evidence, draws, log_density)


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

    Ascents from prior draws find the modes; the box around them then shrinks and grows until it holds every cell
    within `exp(-25)` of the highest density. A smooth density that vanishes at the border is integrated with an error
    that falls exponentially in the number of points; it is measured by leaving out every other point.

    Args:
        model: a Pyro model whose latents have one or two entries for each datum.
        x, *args, **kwargs: its arguments.
        points: on each axis; by default 129 in two dimensions and 1025 in one. Made odd.
        tolerance: accepted change of log p(x), in nats, when every other point is left out.
        max_bytes: bound on the intermediate results of one piece.
        seed: of the prior draws.

    Raises:
        ValueError: more than two dimensions, a constrained site.
        NotAReference: the grid is too coarse for some data, or misses mass at its border.
    """
    with held(model), seeded(x.device, seed):
        log_joint = _real(LogJoint(model, x, *args, **kwargs))
        if log_joint.dim > 2:
            raise ValueError(
                f"grid_reference: one or two latent dimensions, the model has {log_joint.dim}; use hmc_reference"
            )
        points = (points or (1025 if log_joint.dim == 1 else 129)) // 2 * 2 + 1
        low, high = _box(log_joint, (points - 1) // 4 * 2 + 1, max_bytes)
        mesh, cell = _mesh(low, high, points)
        values = log_joint.evaluate(mesh, max_bytes).double()
    axes = (points,) * log_joint.dim
    log_evidence = values.logsumexp(0) + cell.log()
    half = values.reshape(*axes, -1)[(slice(None, None, 2),) * log_joint.dim].reshape(-1, len(x))
    error = (half.logsumexp(0) + cell.log() + log_joint.dim * torch.log(torch.tensor(2.0)) - log_evidence).abs()
    weights = (values - values.logsumexp(0)).exp()
    border = torch.stack([_border(weights.reshape(*axes, -1), axis) for axis in range(log_joint.dim)]).amax((0, 1))
    bad = ((error > tolerance) | (border * points > tolerance) | ~error.isfinite()).nonzero().flatten().tolist()
    if bad:
        worst = error[bad].max().item()
        raise NotAReference(
            f"the grid of {points} points an axis is too coarse for data {bad[:10]} ({len(bad)} of {len(x)}): leaving "
            f"out every other point changes log p(x) by {worst:.3g} nats (at most {tolerance:g}). Raise points=",
            None,
        )
    mean = (weights.unsqueeze(-1) * mesh).sum(0)
    variance = (weights.unsqueeze(-1) * (mesh - mean) ** 2).sum(0)

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = batch_rows(x, args, kwargs, rows)
        with held(model):
            values = LogJoint(model, *inputs, **named).evaluate(z.to(mesh.dtype), max_bytes)
            return values.double() - log_evidence[rows]

    sd = variance.sqrt()
    return Reference("grid", log_joint.events, mean, sd, torch.zeros_like(mean), log_evidence, None, log_density)


def _real(log_joint: LogJoint) -> LogJoint:
    constrained = [name for name, site in log_joint.sites.items() if not site.real]
    if constrained:
        raise ValueError(f"site {constrained[0]!r}: constrained; this takes real latents, hmc_reference takes others")
    return log_joint


def _mesh(low: Tensor, high: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Grid of each datum between `low` and `high` `(N, d)`: positions `(points^d, N, d)`, cell volumes `(N,)`."""
    steps = torch.linspace(0.0, 1.0, points, dtype=low.dtype, device=low.device)
    unit = torch.cartesian_prod(*[steps] * low.shape[1]).reshape(-1, 1, low.shape[1])
    return low + unit * (high - low), ((high - low) / (points - 1)).prod(-1).double()


def _border(weights: Tensor, axis: int) -> Tensor:
    """Largest weight on the two faces of an axis: `(2, N)`."""
    faces = weights.movedim(axis, 0)[[0, -1]]
    return faces.reshape(2, -1, faces.shape[-1]).amax(1)


def _box(log_joint: LogJoint, points: int, max_bytes: int, depth: float = 25.0) -> tuple[Tensor, Tensor]:
    """For each datum the box that holds every grid point whose log density is within `depth` nats of the highest."""
    u = log_joint.prior(32)
    spread = u.std((0, 1)).expand(u.shape[1:])
    modes, values = _ascend(log_joint, u, spread)
    near = (values >= values.amax(0) - depth).unsqueeze(-1)
    low = torch.where(near, modes, torch.inf).amin(0) - 0.5 * spread
    high = torch.where(near, modes, -torch.inf).amax(0) + 0.5 * spread
    for _ in range(20):
        mesh, _ = _mesh(low, high, points)
        values = log_joint.evaluate(mesh, max_bytes)
        inside = (values >= values.amax(0) - depth).unsqueeze(-1)
        cell = (high - low) / (points - 1)
        # one cell and a half beyond the last point inside: grows where mass touches the border, shrinks elsewhere
        first = torch.where(inside, mesh, torch.inf).amin(0)
        last = torch.where(inside, mesh, -torch.inf).amax(0)
        touch_low, touch_high = first <= low + 0.5 * cell, last >= high - 0.5 * cell
        new_low = torch.where(touch_low, low - 0.5 * (high - low), first - 1.5 * cell)
        new_high = torch.where(touch_high, high + 0.5 * (high - low), last + 1.5 * cell)
        settled = ((new_high - new_low) / (high - low) - 1).abs().amax() < 0.2
        low, high = new_low, new_high
        if settled:
            break
    return low, high


def _ascend(log_joint: LogJoint, u: Tensor, spread: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Adam from each start with a falling rate: modes `(starts, N, d)` and their values `(starts, N)`."""
    mean, square = torch.zeros_like(u), torch.zeros_like(u)
    for step in range(1, steps + 1):
        _, gradient = log_joint.gradient(u)
        mean = mean.lerp(gradient, 0.1)
        square = square.lerp(gradient**2, 0.01)
        direction = (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-12)
        u = u + 0.1 * (1 - (step - 1) / steps) * spread * direction.nan_to_num()
    return u, log_joint(u)
