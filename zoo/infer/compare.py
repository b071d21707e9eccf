"""A guide held against a reference posterior, datum by datum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from zoo.infer.chunks import MAX_BYTES, draws, held, seeded
from zoo.infer.inference_data import InferenceData, pareto_k
from zoo.infer.log_joint import LogJoint
from zoo.infer.reference import Reference, as_reference

__all__ = ["FAIR", "GOOD", "Comparison", "Limits", "Verdict", "compare"]


class Verdict(Enum):
    """What to make of a guide at one datum: "good" within the limits `GOOD`, "fair" within `FAIR`, "bad" otherwise."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"


class Limits(NamedTuple):
    """What a guide must meet, all of it, for a verdict.

    k-hat is one of four conditions and never enough: weights drawn from a guide that sits beside the posterior, or on
    one of its modes, can look well behaved because no draw saw what is missing.

    Attributes:
        gap: log p - ELBO = KL(q || p), nats; of a sequence that of all its frames, so that a limit for each frame is
            `Limits(gap=0.25 * T, ...)`.
        mean_error: |mean_q - mean_p| of any coordinate, in posterior standard deviations.
        sd_ratio: sd_q / sd_p of any coordinate lies between 1 / sd_ratio and sd_ratio.
        pareto_k: k-hat of the importance weights is below it.
    """

    gap: float
    mean_error: float
    sd_ratio: float
    pareto_k: float


GOOD = Limits(gap=0.25, mean_error=0.25, sd_ratio=1.25, pareto_k=0.7)
FAIR = Limits(gap=1.0, mean_error=1.0, sd_ratio=2.0, pareto_k=1.0)


@dataclass(frozen=True)
class Comparison:
    """A guide against a reference; N data, d coordinates. In nats and posterior standard deviations.

    Attributes:
        kind: of the reference.
        coordinates: names of the d coordinates.
        log_p, log_p_error: log p(x) and its standard error, `(N,)`: exact if the reference knows it, otherwise by
            importance sampling from the guide and from a Student t matched to the reference's draws, the larger.
        elbo, elbo_error: of the guide, `(N,)`.
        mean_error: (mean_q - mean_p) / sd_p, `(N, d)`.
        mean_error_noise: its standard error, from the guide's and the reference's draws, `(N, d)`.
        sd_ratio: sd_q / sd_p, `(N, d)`.
        pareto_k: k-hat of the guide's importance weights, `(N,)`.
        verdicts: one for each datum.
        reasons: the conditions for "good" that failed, in words; empty where none did.
    """

    kind: str
    coordinates: list[str]
    log_p: Tensor
    log_p_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    mean_error: Tensor
    mean_error_noise: Tensor
    sd_ratio: Tensor
    pareto_k: Tensor
    verdicts: list[Verdict]
    reasons: list[str]

    @property
    def gap(self) -> Tensor:
        """log p - ELBO, `(N,)`, the KL divergence from the guide to the posterior."""
        return self.log_p - self.elbo

    @property
    def gap_error(self) -> Tensor:
        return torch.hypot(self.log_p_error, self.elbo_error)

    @property
    def worst_mean_error(self) -> Tensor:
        """Largest |mean error| over the coordinates, `(N,)`."""
        return self.mean_error.abs().amax(-1)

    @property
    def worst_sd_ratio(self) -> Tensor:
        """The ratio that is furthest from 1 by factors, `(N,)`."""
        return self.sd_ratio.gather(-1, self.sd_ratio.log().abs().argmax(-1, keepdim=True)).squeeze(-1)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary for each datum, for tables and JSON."""
        return [
            {
                "datum": n,
                "log_p": self.log_p[n].item(),
                "elbo": self.elbo[n].item(),
                "gap": self.gap[n].item(),
                "gap_error": self.gap_error[n].item(),
                "mean_error": self.worst_mean_error[n].item(),
                "mean_error_at": self.coordinates[int(self.mean_error[n].abs().argmax())],
                "sd_ratio": self.worst_sd_ratio[n].item(),
                "sd_ratio_at": self.coordinates[int(self.sd_ratio[n].log().abs().argmax())],
                "pareto_k": self.pareto_k[n].item(),
                "verdict": self.verdicts[n].value,
                "reason": self.reasons[n],
            }
            for n in range(len(self.log_p))
        ]

    def __str__(self) -> str:
        head = ["datum", "log p", "ELBO", "gap +- se", "mean error / sd", "sd ratio", "k-hat", "verdict", "because of"]
        lines = [
            [
                str(row["datum"]),
                f"{row['log_p']:.2f}",
                f"{row['elbo']:.2f}",
                f"{row['gap']:.3f} +- {row['gap_error']:.3f}",
                f"{row['mean_error']:.2f} {row['mean_error_at']}",
                f"{row['sd_ratio']:.2f} {row['sd_ratio_at']}",
                f"{row['pareto_k']:.2f}",
                row["verdict"],
                row["reason"],
            ]
            for row in self.rows()
        ]
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        table = [
            "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in [head, *lines]
        ]
        count = {v: self.verdicts.count(v) for v in Verdict}
        summary = ", ".join(f"{count[v]} {v.value}" for v in Verdict)
        return "\n".join([f"guide against {self.kind} posterior: {summary} of {len(self.verdicts)}", *table])


def compare(
    guide: Callable,
    reference: Reference | InferenceData,
    x: Tensor,
    *args: Any,
    model: Callable | None = None,
    num_particles: int = 4000,
    good: Limits = GOOD,
    fair: Limits = FAIR,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> Comparison:
    """Holds a guide against a reference posterior of the same data.

    Args:
        guide: any guide.
        reference: of `nuts_reference`, `hmc_reference`, `grid_reference` or `exact_reference`, or your own draws as
            `arviz.InferenceData` with `(chain, draw, datum, ...)`.
        x, *args, **kwargs: the data of the reference, and the other arguments of model and guide.
        model: by default `guide.model`.
        num_particles: draws from the guide for each datum (and from the Student t, where log p has to be estimated).
        good, fair: limits of the verdicts.
        max_bytes: bound on the intermediate results of one piece.
        seed: of a random stream of its own; None uses the caller's.

    Raises:
        ValueError: no model, a reference of other data or of sites that the guide does not sample.
    """
    if model is None:
        model = getattr(guide, "model", None)
        if not callable(model):
            raise ValueError(f"compare: {type(guide).__name__} does not know its model; give model=")
    reference = as_reference(reference)
    if len(reference.mean) != len(x):
        raise ValueError(f"compare: the reference holds {len(reference.mean)} data, x has {len(x)}")
    with held(model, guide), seeded(x.device, seed):
        latents, weights = draws(
            model, guide, x, args, kwargs, num_particles=num_particles, sites=list(reference.sites), max_bytes=max_bytes
        )
        latents, log_weights = latents.double(), weights.double()
        log_p, log_p_error = _log_evidence(reference, model, x, args, kwargs, log_weights, max_bytes)
    mean, sd = reference.mean.double().cpu(), reference.sd.double().cpu()
    error = (latents.mean(0) - mean) / sd
    noise = torch.hypot(latents.std(0) / math.sqrt(num_particles), reference.mean_error.double().cpu()) / sd
    ratio = latents.std(0) / sd
    elbo, elbo_error = log_weights.mean(0), log_weights.std(0) / math.sqrt(num_particles)
    k = pareto_k(weights)
    measured = list(
        zip(
            (log_p - elbo).tolist(),
            error.abs().amax(-1).tolist(),
            ratio.log().abs().amax(-1).exp().tolist(),
            k.tolist(),
            strict=True,
        )
    )
    verdicts = [_verdict(values, good, fair) for values in measured]
    reasons = [", ".join(_failed(values, good)) for values in measured]
    return Comparison(
        kind=reference.kind,
        coordinates=reference.coordinates,
        log_p=log_p,
        log_p_error=log_p_error,
        elbo=elbo,
        elbo_error=elbo_error,
        mean_error=error,
        mean_error_noise=noise,
        sd_ratio=ratio,
        pareto_k=k,
        verdicts=verdicts,
        reasons=reasons,
    )


def _failed(values: tuple[float, float, float, float], limits: Limits) -> list[str]:
    """Names of the conditions that are not met; NaN meets none."""
    gap, mean_error, sd_ratio, k = values
    met = (gap <= limits.gap, mean_error <= limits.mean_error, sd_ratio <= limits.sd_ratio, k < limits.pareto_k)
    return [name for name, ok in zip(("gap", "mean", "sd", "k-hat"), met, strict=True) if not ok]


def _verdict(values: tuple[float, float, float, float], good: Limits, fair: Limits) -> Verdict:
    if not _failed(values, good):
        return Verdict.GOOD
    return Verdict.BAD if _failed(values, fair) else Verdict.FAIR


def _log_evidence(
    reference: Reference,
    model: Callable,
    x: Tensor,
    args: tuple,
    kwargs: dict[str, Any],
    log_weights: Tensor,
    max_bytes: int,
) -> tuple[Tensor, Tensor]:
    """log p(x) `(N,)` and its standard error.

    A guide that misses the posterior underestimates log p and so its own gap, whatever its weights look like. Where
    there are draws, a proposal that has seen the posterior is tried as well and the larger estimate taken: unbiased
    estimates of p(x) err downwards when they miss mass, and exceed c p(x) with a probability of at most 1 / c.
    """
    if reference.log_evidence is not None:
        log_p = reference.log_evidence.detach().double().cpu()
        return log_p, torch.zeros_like(log_p)
    estimates = [_mean_weight(log_weights)]
    if reference.draws is not None:
        log_joint = LogJoint(model, x, *args, **kwargs)
        u = log_joint.unconstrain(_unflatten(reference.draws.to(x.device), reference.sites))
        proposal = _student(u.double(), len(u))
        z = proposal.sample(torch.Size([len(log_weights)]))
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        log_q = proposal.log_prob(z)
        estimates.append(_mean_weight((log_joint.evaluate(z.to(dtype), max_bytes).double() - log_q).cpu()))
    values = torch.stack([value for value, _ in estimates])
    errors = torch.stack([error for _, error in estimates])
    log_p, which = values.max(0)
    return log_p, errors.gather(0, which.unsqueeze(0))[0]


def _mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean weight, and its standard error by the delta method."""
    total = log_weights.logsumexp(0)
    relative = ((2 * log_weights).logsumexp(0) - 2 * total).exp() - 1 / len(log_weights)
    return total - math.log(len(log_weights)), relative.clamp(min=0.0).sqrt()


def _student(u: Tensor, count: int) -> MultivariateStudentT:
    """Student t with 5 degrees of freedom and the draws' mean and covariance (diagonal where the draws are too few)."""
    mean, dim = u.mean(0), u.shape[-1]
    centred = u - mean
    if count > 10 * dim:
        covariance = torch.einsum("sni,snj->nij", centred, centred) / (count - 1)
        scale = torch.linalg.cholesky(covariance * (3.0 / 5.0))
    else:
        scale = torch.diag_embed(centred.std(0) * math.sqrt(3.0 / 5.0))
    return MultivariateStudentT(torch.tensor(5.0, dtype=u.dtype, device=u.device), mean, scale)


def _unflatten(flat: Tensor, sites: dict[str, torch.Size]) -> dict[str, Tensor]:
    """`(K, N, d)` -> site -> `(K, N, *event)`."""
    parts = flat.split([event.numel() for event in sites.values()], -1)
    return {
        name: part.reshape(*part.shape[:2], *event) for (name, event), part in zip(sites.items(), parts, strict=True)
    }
