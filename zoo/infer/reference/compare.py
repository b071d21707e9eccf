"""A guide held against a reference posterior, datum by datum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES, weighted_draws
from zoo.infer.reference.fingerprint import check_fingerprint
from zoo.infer.reference.inference_data import InferenceData, pareto_k
from zoo.infer.reference.judged import DrawsReference
from zoo.infer.reference.reference import Reference, as_reference
from zoo.infer.sites.programs import check_num_particles
from zoo.parts.aside import held, seeded
from zoo.parts.door import entered, inside

__all__ = ["FAIR", "GOOD", "Comparison", "KnowsItsModel", "Limits", "Verdict", "compare", "model_of"]


class Verdict(Enum):
    """The verdict on a guide at one datum: "good" within the limits `GOOD`, "fair" within `FAIR`, "bad" otherwise."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"


class Limits(NamedTuple):
    """Limits of gap, error of the mean, ratio of standard deviations and k-hat; a verdict asks for all four.

    k-hat is one of four conditions and never enough: a guide that sits beside the posterior, or on one of its modes,
    can have well behaved weights, because no draw comes near the mass that the guide misses.

    Attributes:
        gap: largest log p - ELBO = KL(q || p), nats; for a sequence the sum over its frames, so that a limit for each
            frame is `Limits(gap=0.25 * T, ...)`.
        mean_error: largest |mean_q - mean_p| of any coordinate, in posterior standard deviations.
        sd_ratio: largest sd_q / sd_p of any coordinate, or sd_p / sd_q.
        pareto_k: bound on k-hat of the importance weights, which must lie below.
    """

    gap: float
    mean_error: float
    sd_ratio: float
    pareto_k: float


# 0.7 is the k-hat up to which importance weights have a usable variance, 1.0 that up to which they have a mean.
GOOD = Limits(gap=0.25, mean_error=0.25, sd_ratio=1.25, pareto_k=0.7)
FAIR = Limits(gap=1.0, mean_error=1.0, sd_ratio=2.0, pareto_k=1.0)


@dataclass(frozen=True)
class Comparison:
    """A guide against a reference; N data, d coordinates. In nats and posterior standard deviations.

    Attributes:
        kind: of the reference.
        coordinates: names of the d coordinates.
        log_p, log_p_error: log p(x) and its standard error, `(N,)`. Exact if the reference knows log p(x), otherwise
            the larger of two importance sampling estimates: from the guide, and from a Student t that is matched to
            the reference's draws.
        elbo, elbo_error: of the guide, `(N,)`.
        mean_error: (mean_q - mean_p) / sd_p, `(N, d)`.
        mean_error_noise: standard error of `mean_error`, from the guide's and the reference's draws, `(N, d)`.
        sd_ratio: sd_q / sd_p, `(N, d)`.
        pareto_k: k-hat of the guide's importance weights, `(N,)`.
        verdicts: one for each datum.
        reasons: the conditions for "good" that failed, in words; empty where none failed.
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
        """Standard error of the gap, `(N,)`."""
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
    x: Any,
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
        reference: result of `nuts_reference`, `hmc_reference`, `grid_reference` or `exact_reference`, or draws of your
            own as `arviz.InferenceData` with `(chain, draw, datum, ...)`.
        x, *args, **kwargs: the data of the reference, and the other arguments of model and guide.
        model: the model of the reference; None: `guide.model`.
        num_particles: draws from the guide for each datum (and from the Student t, where log p has to be estimated).
        good, fair: limits of the verdicts.
        max_bytes: bound on the intermediate results of one piece.
        seed: of a random stream of its own; None: the caller's stream.

    Returns:
        Gap, error of the mean, ratio of standard deviations, k-hat and verdict for each datum; for a reference of one
        joint posterior (a latent stands outside the batch plate) one of each, of all latents and all data together.

    Raises:
        ValueError: no model, fewer than 30 particles, a reference of other data, of another model or of sites that the
            guide does not sample.
        NotAReference: the reference is made of draws and none of them is in a mode of more than 1 % of the Laplace mass
            that ascents from 64 draws of the guide find.
    """
    model = model_of(guide, model, "compare")
    x, args, kwargs = entered((model, guide), x, args, kwargs)
    check_num_particles(num_particles, "compare: ")
    if num_particles < 30:
        raise ValueError(f"compare: num_particles: expected 30 or more (k-hat fits a tail), got {num_particles}")
    handed, reference = reference, as_reference(reference)
    if len(reference.mean) != len(x) and not reference.joint:
        raise ValueError(f"compare: the reference holds {len(reference.mean)} data, x has {len(x)}")
    check_fingerprint(reference.fingerprint, model, x, args, kwargs, "compare")
    with held(model, guide), seeded(seed):
        latents, weights = weighted_draws(
            model, guide, x, args, kwargs, num_particles=num_particles, sites=list(reference.sites),
            joint=reference.joint, max_bytes=max_bytes,
        )  # fmt: skip
        if latents.shape[-1] != reference.mean.shape[-1]:
            raise ValueError(
                f"compare: the reference has {reference.mean.shape[-1]} coordinates {reference.coordinates[:6]}, the "
                f"guide samples {latents.shape[-1]} at {list(reference.sites)}"
            )
        if reference.log_evidence is None:
            judge = DrawsReference(reference, model, x, args, kwargs, max_bytes)
            judge.check_modes(latents.double(), None if isinstance(handed, Reference) else handed)
            evidence = judge.log_evidence(weights.double())
        else:
            log_p = reference.log_evidence.detach().double().cpu()
            known = reference.log_evidence_error
            evidence = log_p, torch.zeros_like(log_p) if known is None else known.detach().double().cpu()
    return _comparison(reference, latents.double(), weights, evidence, good, fair)


@runtime_checkable
class KnowsItsModel(Protocol):
    """A guide with its model as the attribute `model`, as every guide of `guides` and every autoguide of Pyro."""

    @property
    def model(self) -> Any: ...


def model_of(guide: Callable, model: Callable | None, caller: str) -> Callable:
    """The model given, or else the guide's own.

    Raises:
        ValueError: neither is there.
    """
    if model is not None:
        return model
    if not isinstance(guide, KnowsItsModel) or not callable(guide.model):
        raise ValueError(f"{caller}: {type(guide).__name__} does not know its model; give model=")
    # an autoguide wraps its model in a handler that starts its latents
    return inside(guide.model)


def _comparison(
    reference: Reference, latents: Tensor, weights: Tensor, evidence: tuple[Tensor, Tensor], good: Limits, fair: Limits
) -> Comparison:
    """Judges draws `(K, N, d)` of a guide by their log weights `(K, N)`, log p(x) and its error, `(N,)`."""
    log_p, log_p_error = evidence
    root = math.sqrt(len(latents))
    mean, sd = reference.mean.double().cpu(), reference.sd.double().cpu()
    error = (latents.mean(0) - mean) / sd
    noise = torch.hypot(latents.std(0) / root, reference.mean_error.double().cpu()) / sd
    ratio = latents.std(0) / sd
    log_weights = weights.double()
    elbo, elbo_error = log_weights.mean(0), log_weights.std(0) / root
    # k-hat is given the weights in their own precision: it tells rounding from a tail by the dtype.
    k = pareto_k(weights)
    # KL is never negative. A gap further below zero than noise and rounding allow shows that log p(x) is wrong, and no
    # other statistic has a meaning then.
    rounding = 64 * torch.finfo(weights.dtype).eps * torch.maximum(elbo.abs(), log_p.abs()).clamp(min=1.0)
    below = (log_p - elbo < -4.0 * torch.hypot(log_p_error, elbo_error) - rounding).tolist()
    statistics = (log_p - elbo, error.abs().amax(-1), ratio.log().abs().amax(-1).exp(), k)
    measured = list(zip(*(statistic.tolist() for statistic in statistics), strict=True))
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
        verdicts=[Verdict.BAD if low else _verdict(v, good, fair) for v, low in zip(measured, below, strict=True)],
        reasons=[", ".join([_BELOW] * low + _failed(v, good)) for v, low in zip(measured, below, strict=True)],
    )


_BELOW = "gap below zero: reference or log p of other data or another model"


def _failed(values: tuple[float, float, float, float], limits: Limits) -> list[str]:
    """Names of the conditions that are not met; NaN meets none."""
    # Comparisons state the condition that is met, so that NaN fails each.
    gap, mean_error, sd_ratio, k = values
    met = (gap <= limits.gap, mean_error <= limits.mean_error, sd_ratio <= limits.sd_ratio, k < limits.pareto_k)
    return [name for name, ok in zip(("gap", "mean", "sd", "k-hat"), met, strict=True) if not ok]


def _verdict(values: tuple[float, float, float, float], good: Limits, fair: Limits) -> Verdict:
    if not _failed(values, good):
        return Verdict.GOOD
    return Verdict.BAD if _failed(values, fair) else Verdict.FAIR
