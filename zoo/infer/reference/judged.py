"""Draws of a reference held against the draws of a guide: modes that the reference missed, and log p(x)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from zoo.infer.reference.checked import NotAReference, unvisited
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.log_joint import LogJoint, unflattened
from zoo.infer.reference.modes import STARTS, find_modes, spread_of
from zoo.infer.reference.reference import Reference

__all__ = ["DrawsReference"]


class DrawsReference:
    """The draws of a reference in unconstrained coordinates, `(K, N, d)`, with the log joint of the model.

    Args:
        reference: one that is made of draws.
        model, x, args, kwargs: the model and its arguments.
        max_bytes: bound on the intermediate results of one piece.

    Raises:
        ValueError: the draws are not of the model's latent sites, or not of their shapes.
    """

    def __init__(
        self, reference: Reference, model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any], max_bytes: int
    ) -> None:
        assert reference.draws is not None  # a reference without draws knows log p(x)
        self.log_joint, self.max_bytes = LogJoint(model, x, *args, **kwargs), max_bytes
        self.sites, events = reference.sites, self.log_joint.events
        if self.sites != {name: events.get(name) for name in self.sites} or len(events) != len(self.sites):
            raise ValueError(
                f"compare: the reference has draws of { {n: tuple(e) for n, e in self.sites.items()} }, the model has "
                f"the latent sites { {n: tuple(e) for n, e in events.items()} }"
            )
        self.u = self.log_joint.unconstrain(unflattened(reference.draws.to(x.device), self.sites)).double()
        # On the border (a rate of 0, a simplex with a zero) a coordinate is infinite, and so would the moments be.
        if not self.u.isfinite().all():
            name = next(n for n, s in self.log_joint.sites.items() if not self.u[..., s.columns].isfinite().all())
            raise ValueError(f"compare: site {name!r}: the reference has draws on the border of the support")

    def check_modes(self, latents: Tensor, data: InferenceData | None) -> None:
        """Refuses draws that miss a mode which ascents from the guide's draws find.

        Args:
            latents: the guide's draws, `(K, N, d)`, of which `STARTS` are starts.
            data: the container of the reference's draws, for the error.

        Raises:
            NotAReference: a mode of more than 1 % of the Laplace mass holds none of the reference's draws.
        """
        # Ascents start from the reference's own draws too. The mass of a mode is its share in all modes, so that those
        # in which the reference's draws lie must be known as well.
        own = self.u[:: max(1, len(self.u) // STARTS)][:STARTS]
        guided = self.log_joint.unconstrain(unflattened(latents[:STARTS].to(self.u.device), self.sites))
        starts = torch.cat([guided, own]).to(self.log_joint.dtype)
        with torch.no_grad():
            spread = spread_of(self.log_joint.prior(STARTS))
        modes = find_modes(self.log_joint, starts, spread, self.max_bytes)
        missed = unvisited(self.log_joint, modes, self.u, self.max_bytes)
        if missed is not None:
            said = f"not a reference: {missed.say(0)}; ascents from the guide's draws end there"
            raise NotAReference(said, data, (missed,))

    def log_evidence(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) `(N,)` and its standard error `(N,)`, the larger of two importance sampling estimates.

        Args:
            log_weights: of the guide's draws, `(K, N)`; the second estimate takes as many draws from a Student t.
        """
        # A guide that misses the posterior underestimates log p and so its own gap, however regular its weights. The
        # Student t has seen the posterior. The larger estimate is safe to take: unbiased estimates of p(x) err
        # downwards when they miss mass, and exceed c p(x) with a probability of at most 1 / c (Markov).
        proposal = _student(self.u)
        z = proposal.sample(torch.Size([len(log_weights)]))
        log_q = proposal.log_prob(z)
        own = (self.log_joint.evaluate(z.to(self.log_joint.dtype), self.max_bytes).double() - log_q).cpu()
        found = [_mean_weight(log_weights), _mean_weight(own)]
        values, errors = (torch.stack(part) for part in zip(*found, strict=True))
        log_p, which = values.max(0)
        return log_p, errors.gather(0, which.unsqueeze(0))[0]


def _mean_weight(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, `(N,)`, and the standard error of this log by the delta method, `(N,)`."""
    total = log_weights.logsumexp(0)
    relative = ((2 * log_weights).logsumexp(0) - 2 * total).exp() - 1 / len(log_weights)
    return total - math.log(len(log_weights)), relative.clamp(min=0.0).sqrt()


def _student(u: Tensor) -> MultivariateStudentT:
    """Student t with the mean and covariance of draws `(K, N, d)`; diagonal covariance below ten draws a dimension."""
    # 5 degrees of freedom: tails heavier than the posterior's keep the weights bounded, and the covariance is finite,
    # 5 / 3 of the squared scale.
    mean, (count, _, dim) = u.mean(0), u.shape
    centred = u - mean
    # A covariance of few draws is close to singular in some direction, and the proposal would have no width there.
    if count > 10 * dim:
        covariance = torch.einsum("sni,snj->nij", centred, centred) / (count - 1)
        scale = torch.linalg.cholesky(covariance * (3.0 / 5.0))
    else:
        scale = torch.diag_embed(centred.std(0) * math.sqrt(3.0 / 5.0))
    return MultivariateStudentT(torch.tensor(5.0, dtype=u.dtype, device=u.device), mean, scale)
