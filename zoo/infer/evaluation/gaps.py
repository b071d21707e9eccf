"""The two gaps of amortised inference: the nats that the family cannot express, and those that the encoder loses.

References: Cremer, Li and Duvenaud 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.infer.call import Purpose, run
from zoo.infer.evaluation.likelihood import log_likelihood, pooled_error, standard_error
from zoo.infer.objectives import ELBO, RLOO
from zoo.infer.pieces import MAX_BYTES, with_index
from zoo.parts.aside import evaluating, held, seeded
from zoo.parts.checks import check_counts, check_positive, listed
from zoo.parts.door import entered

__all__ = ["Gaps", "gaps"]


@dataclass(frozen=True)
class Gaps:
    """log p - ELBO of a guide, split in two (Cremer et al. 2018); tensors are `(batch,)`, in nats.

    Attributes:
        log_p: log p(x).
        elbo: the ELBO of the guide.
        elbo_best: the ELBO of the best per-datum guide of the family that the optimisation found.
        approximation: log p - elbo_best, which no guide of the family can gain.
        amortization: elbo_best - elbo, which the encoder loses; within its error it may be below 0.
        log_p_error, elbo_error, elbo_best_error: Monte Carlo standard errors (0 for an exact log p).
        history: mean ELBO of the per-datum guide at each optimisation step.
    """

    log_p: Tensor
    elbo: Tensor
    elbo_best: Tensor
    log_p_error: Tensor
    elbo_error: Tensor
    elbo_best_error: Tensor
    history: list[float]

    @property
    def total(self) -> Tensor:
        return self.log_p - self.elbo

    @property
    def approximation(self) -> Tensor:
        return self.log_p - self.elbo_best

    @property
    def amortization(self) -> Tensor:
        return self.elbo_best - self.elbo

    @property
    def approximation_error(self) -> Tensor:
        return torch.hypot(self.log_p_error, self.elbo_best_error)

    @property
    def amortization_error(self) -> Tensor:
        return torch.hypot(self.elbo_best_error, self.elbo_error)

    @property
    def total_error(self) -> Tensor:
        return torch.hypot(self.log_p_error, self.elbo_error)

    def __str__(self) -> str:
        lines = [f"mean over {len(self.log_p)} data, nats (+- over the data, +- Monte Carlo)"]
        for name in ("total", "approximation", "amortization"):
            value, error = getattr(self, name), pooled_error(getattr(self, f"{name}_error"))
            mean, spread = value.mean().item(), standard_error(value)
            lines.append(f"{name + ' gap':<18} {mean:8.3f} +- {spread:.3f} +- {error:.3f}")
        return "\n".join(lines)


def gaps(
    model: Callable,
    guide: Callable,
    x: Any,
    *args: Any,
    best: Callable | None = None,
    log_p: Tensor | None = None,
    steps: int = 1000,
    learning_rate: float = 0.02,
    step_particles: int = 8,
    num_particles: int = 5000,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> Gaps:
    """log p(x) - ELBO = (log p(x) - best ELBO of the family) + (best ELBO - ELBO): approximation and amortization gap.

    Adam seeks the best q with a learning rate that falls linearly to 0, the model being frozen, on all of x at once.
    Both ELBOs are then estimated from fresh draws.

    Args:
        model, guide: the pair; the guide is the amortised one.
        x, *args, **kwargs: the data and the other arguments of both.
        best: a guide with its own parameters for each row of x, trained here in place. By default
            `guide.per_datum(x, ...)`, which starts at the amortised solution.
        log_p: log p(x), `(batch,)`, where it is known. Otherwise `model.log_prob(x, ...)`, which is taken to be exact,
            or for a model without it the larger of two estimates, by importance sampling from both guides.
        steps, learning_rate: of Adam.
        step_particles: draws for the ELBO of one step; codes that are drawn (`guides.OneHot`) need two at least.
        num_particles: draws from each guide for the ELBOs and log p.
        max_bytes, seed: as in `log_likelihood`.

    Raises:
        ValueError: no `best`, and a guide without `per_datum`; a `best` without parameters; a `log_p` of another shape;
            an ELBO that is not finite; one draw a step of a site without a reparameterised sample.
    """
    check_counts(steps=steps, step_particles=step_particles, num_particles=num_particles)
    check_positive(learning_rate=learning_rate)
    x, args, kwargs = entered((model, guide), x, args, kwargs)
    with seeded(seed):
        # any callable may be a guide, so `per_datum` is looked up by name, and a guide without it is refused
        if best is None:
            per_datum = getattr(guide, "per_datum", None)
            if not callable(per_datum):
                raise ValueError(
                    f"gaps: {type(guide).__name__} offers no per_datum(x); give best=, a guide of the same family "
                    "with its own parameters for each row of x (guides.PerDatum, where z is a vector)"
                )
            with torch.no_grad():
                best = per_datum(x, *args, **kwargs)
        history = _optimise(model, best, x, args, kwargs, steps, learning_rate, step_particles)
        options: dict[str, Any] = {"num_particles": num_particles, "max_bytes": max_bytes}
        amortised = log_likelihood(model, guide, x, *args, **options, **kwargs)
        own = log_likelihood(model, best, x, *args, **options, **kwargs)
    log_prob = getattr(model, "log_prob", None)
    if log_p is None and callable(log_prob):
        with torch.no_grad():
            log_p = log_prob(x, *args, **kwargs)
    if log_p is not None:
        if log_p.shape != (len(x),):
            raise ValueError(f"log_p: expected one value for each of the {len(x)} data, got shape {tuple(log_p.shape)}")
        log_p, error = log_p.detach().double(), torch.zeros_like(own.elbo)
    else:
        # an unbiased estimate of p(x) that misses mass errs downwards, nearly always: the larger one is nearer
        log_p = torch.maximum(own.per_datum, amortised.per_datum)
        error = torch.where(own.per_datum == log_p, own.per_datum_error, amortised.per_datum_error)
    return Gaps(log_p, amortised.elbo, own.elbo, error, amortised.elbo_error, own.elbo_error, history)


def _optimise(
    model: Callable, best: Callable, x: Tensor, args: tuple, kwargs: dict, steps: int, rate: float, particles: int
) -> list[float]:
    parameters = [p for p in best.parameters() if p.requires_grad] if isinstance(best, nn.Module) else []
    if not parameters:
        raise ValueError(f"gaps: best must be a torch.nn.Module with parameters to optimise, got {type(best).__name__}")
    optimizer = torch.optim.Adam(parameters, lr=rate)
    history: list[float] = []
    kwargs = with_index(best, x, kwargs)
    # codes that are drawn have no path to their logits; for all other latents RLOO is the ELBO
    objective = RLOO(particles) if particles > 1 else ELBO()
    purpose = Purpose(differentiable=True, score=objective.score)
    # in evaluation mode, in which both ELBOs are estimated: there relaxed codes are one-hot
    with held(model), evaluating(best):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            elbo = objective.bound(run(model, best, (x, *args), kwargs, particles, purpose))
            if not elbo.isfinite().all():
                rows = listed((~elbo.isfinite()).nonzero().flatten().tolist())
                raise ValueError(f"gaps: at step {step} the ELBO is not finite in rows {rows}")
            history.append(elbo.mean().item())
            # not backward(): it would add to .grad of everything else that has a graph here
            gradients = torch.autograd.grad(-elbo.sum(), parameters, allow_unused=True)
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            optimizer.step()
        optimizer.zero_grad()
    return history
