"""Draws of a reference held against what a guide knows: the modes that they missed, and log p(x)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from zoo.infer.reference.checked import NotAReference, unvisited
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.modes import STARTS, find_modes, spread_of
from zoo.infer.reference.reference import Reference

__all__ = ["DrawsReference"]


class DrawsReference:
    """The draws of a reference in unconstrained coordinates, `(K, N, d)`, with the log joint of the model.

    Raises:
        ValueError: the draws are not of the model's latent sites, or not of their shapes.
    """

    def __init__(
        self, reference: Reference, model: Callable, x: Tensor, args: tuple, kwargs: dict[str, Any], max_bytes: int
    ) -> None:
        assert reference.draws is not None  # or it would know log p(x)
        self.log_joint, self.max_bytes = LogJoint(model, x, *args, **kwargs), max_bytes
        self.sites, events = reference.sites, self.log_joint.events
        if self.sites != {name: events.get(name) for name in self.sites} or len(events) != len(self.sites):
            raise ValueError(
                f"compare: the reference has draws of { {n: tuple(e) for n, e in self.sites.items()} }, the model has "
                f"the latent sites { {n: tuple(e) for n, e in events.items()} }"
            )
        self.u = self.log_joint.unconstrain(_unflatten(reference.draws.to(x.device), self.sites)).double()
        if not self.u.isfinite().all():
            name = next(n for n, s in self.log_joint.sites.items() if not self.u[..., s.columns].isfinite().all())
            raise ValueError(f"compare: site {name!r}: the reference has draws on the border of the support")

    def check_modes(self, latents: Tensor, data: InferenceData | None) -> None:
        """Raises `NotAReference` where ascents find a mode in which no draw is.

        They start from `STARTS` of the guide's draws, `latents` `(K, N, d)`, and from as many of the reference, which
        say what its own modes weigh. `data` goes into the error.
        """
        own = self.u[:: max(1, len(self.u) // STARTS)][:STARTS]
        guided = self.log_joint.unconstrain(_unflatten(latents[:STARTS].to(self.u.device), self.sites))
        starts = torch.cat([guided, own]).to(self.log_joint.dtype)
        with torch.no_grad():
            spread = spread_of(self.log_joint.prior(STARTS))
        modes = find_modes(self.log_joint, starts, spread, self.max_bytes)
        missed = unvisited(self.log_joint, modes, self.u, self.max_bytes)
        if missed is not None:
            said = f"not a reference: {missed.say(0)}; ascents from the guide's draws end there"
            raise NotAReference(said, data, (missed,))

    def log_evidence(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) `(N,)` and its standard error.

        A guide that misses the posterior underestimates log p and so its own gap, whatever its weights `(K, N)` look
        like. So a proposal that has seen the posterior is tried as well and the larger estimate taken: unbiased
        estimates of p(x) err downwards when they miss mass, and exceed c p(x) with a probability of at most 1 / c.
        """
        proposal = _student(self.u, len(self.u))
        z = proposal.sample(torch.Size([len(log_weights)]))
        log_q = proposal.log_prob(z)
        own = (self.log_joint.evaluate(z.to(self.log_joint.dtype), self.max_bytes).double() - log_q).cpu()
        found = [_mean_weight(log_weights), _mean_weight(own)]
        values, errors = (torch.stack(part) for part in zip(*found, strict=True))
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
