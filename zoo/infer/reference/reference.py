"""Reference posteriors in one form: known well enough to judge a guide by them.

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
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.infer.reference.checked import CHAINS
from zoo.infer.reference.fingerprint import JOINT, fingerprint, from_attributes
from zoo.infer.reference.inference_data import InferenceData, ess_mean, is_inference_data, site_draws
from zoo.infer.reference.log_joint import LogJoint, entry_names, flatten
from zoo.infer.sites.programs import batch_rows
from zoo.parts.aside import held, seeded
from zoo.parts.checks import listed
from zoo.parts.door import entered

__all__ = ["Reference", "TractableModel", "as_reference", "exact_reference"]


@dataclass(frozen=True)
class Reference:
    """A posterior known well enough to judge a guide. N: data points, d: entries of all latent sites side by side.

    Attributes:
        kind: origin: "exact", "grid", "NUTS", "HMC", or another sampler's name.
        sites: latent site -> event shape, in the order of the d entries.
        mean, sd: posterior moments, `(N, d)`.
        mean_error: standard error of `mean`, `(N, d)`; 0 where nothing was sampled.
        log_evidence: log p(x), `(N,)` in nats; None for draws, which do not give it.
        draws: `(draws, N, d)`; None for a grid.
        log_density: `(z, rows) -> (K, n)`, the normalised log density of the data `rows` (LongTensor `(n,)`) at z
            `(K, n, d)`; None for a sampler.
        log_evidence_error: a bound on the error of `log_evidence`, `(N,)`; None: rounding.
        joint: one posterior of all latents, which the data share: N is 1, and the axis of the data is among the events.
        fingerprint: of the data, the other arguments and the model, by `fingerprint`. None in draws of one's own:
            `compare` and `plot_overlay` then check the number of data alone.
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
    joint: bool = False

    @property
    def coordinates(self) -> list[str]:
        """Names of the d entries: `z[0]`, `z[1]`, ..."""
        return [name for site, event in self.sites.items() for name in entry_names(site, event)]


def as_reference(found: Reference | InferenceData) -> Reference:
    """Brings any reference to one form: a `Reference` as it is, draws in an arviz container by their moments.

    Args:
        found: a `Reference`, or an arviz container whose posterior group holds `(chain, draw, datum, ...)`.

    Raises:
        ValueError: neither of the two; fewer than four chains, which cannot vouch for each other; draws without an
            axis of the data, of sites that differ in its length, or with NaN.
    """
    if isinstance(found, Reference):
        return found
    if not is_inference_data(found):
        raise ValueError(
            "expected a Reference, an arviz.InferenceData or a DataTree with a posterior group, got "
            f"{type(found).__name__}"
        )
    values = site_draws(found)
    attributes = found["posterior"].attrs
    if joint := bool(attributes.get(JOINT)):
        values = {name: value.unsqueeze(2) for name, value in values.items()}
    _check_values(values)
    # In double: moments of float32 draws far from 0 would lose the digits that a comparison needs.
    draws = flatten(values, 3).double()
    sd = draws.std((0, 1))
    return Reference(
        kind=str(attributes.get("sampler", "draws")),
        sites={name: value.shape[3:] for name, value in values.items()},
        mean=draws.mean((0, 1)),
        sd=sd,
        mean_error=sd / ess_mean(draws).sqrt(),
        draws=draws.flatten(0, 1),
        fingerprint=from_attributes(attributes),
        joint=joint,
    )


def _check_values(values: dict[str, Tensor]) -> None:
    """Refuses draws `(chain, draw, datum, ...)` that cannot be a reference; raises ValueError with the site's name."""
    for name, value in values.items():
        if value.dim() < 3:
            raise ValueError(
                f"site {name!r}: expected draws of shape (chain, draw, datum, ...), got {tuple(value.shape)}"
            )
        if len(value) < CHAINS:
            raise ValueError(
                f"site {name!r}: draws of {len(value)} chains; a reference has at least {CHAINS}, started apart (draws "
                "that are known to be independent may be cut into as many)"
            )
        if value.shape[2] != (size := next(iter(values.values())).shape[2]):
            raise ValueError(f"site {name!r}: draws of {value.shape[2]} data, {next(iter(values))!r} has {size}")
        if value.isnan().any():
            raise ValueError(f"site {name!r}: the draws hold NaN")


@runtime_checkable
class TractableModel(Protocol):
    """A Pyro model whose `posterior(x, ...)` is the exact p(z | x), with batch shape `(N,)`."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...


@torch.no_grad()
def exact_reference(
    model: TractableModel, x: Any, *args: Any, num_draws: int = 4000, seed: int | None = 0, **kwargs: Any
) -> Reference:
    """The model's own `posterior(x)`, with log p(x) = log p(x, z) - log p(z | x), which holds at every z.

    Args:
        model: a model with one real latent site and `posterior(x, ...)`.
        x, *args, **kwargs: the model's arguments.
        num_draws, seed: number and random stream of the draws that are kept for pictures.

    Raises:
        ValueError: the model has no `posterior`, several latent sites, or a constrained one; a posterior that is not
            the model's, for which log p(x, z) - log p(z | x) varies with z.
    """
    if not isinstance(model, TractableModel):
        raise ValueError(f"exact_reference: {type(model).__name__} offers no posterior(x); use another reference")
    x, args, kwargs = entered((model,), x, args, kwargs)
    with held(model), seeded(seed):
        log_joint = LogJoint(model, x, *args, **kwargs)
        log_joint.check_real("exact_reference")
        if log_joint.joint:
            name = next(iter(log_joint.sites))
            raise ValueError(f"exact_reference: site {name!r}: stands outside the batch plate; take nuts_reference")
        if len(log_joint.sites) > 1:
            raise ValueError(f"exact_reference: one latent site, the model has {list(log_joint.sites)}")
        posterior = model.posterior(x, *args, **kwargs)
        z = posterior.mean
        draws = flatten({"z": posterior.sample(torch.Size([num_draws]))})
        # Near the mean both densities are of moderate size, so that their difference loses the fewest digits.
        log_evidence = log_joint(flatten({"z": z}, 1).unsqueeze(0))[0] - posterior.log_prob(z)
        _check_posterior(log_joint, posterior, draws[:16])

    def log_density(z: Tensor, rows: Tensor) -> Tensor:
        inputs, named = batch_rows(x, args, kwargs, rows)
        with torch.no_grad():
            chosen = model.posterior(*inputs, **named)
            return chosen.log_prob(z.reshape(*z.shape[:2], *chosen.event_shape))

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
    # The sum over sites and frames rounds, relative to the size of log p(x, z). Below 0.01 nats no verdict changes.
    rounding = 1024 * torch.finfo(values.dtype).eps * values.abs().amax(0)
    # Negated, so that NaN is wrong too.
    bad = (~(varies <= rounding.clamp(min=0.01))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"exact_reference: {type(log_joint.model).__name__}.posterior is not the model's for data {listed(bad)} "
            f"({len(bad)} of {len(varies)}): log p(x, z) - log posterior(z) varies by {varies[bad[0]].item():.3g} nats "
            "over its draws"
        )
