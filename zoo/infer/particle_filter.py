"""log p(x) of sequences by a particle filter that draws from a guide (`zoo.parts.particle_filter`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.infer import carried
from zoo.infer.chunks import held, seeded
from zoo.infer.pair import look_at
from zoo.infer.sequences import checked, in_batches

__all__ = ["smc_log_likelihood"]


def smc_log_likelihood(
    model: Callable,
    guide: Any,
    x: Tensor,
    u: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    first: Tensor | None = None,
    num_particles: int = 100,
    resample_below: float | None = None,
    batch_size: int = 32,
    seed: int | None = None,
) -> Tensor:
    """log of an unbiased estimate of p(x_i), nats, float64, `(N,)`: sequential Monte Carlo with the guide as proposal.

    Pair and parameters are held in evaluation mode. What is left of the Monte Carlo error shows in a second seed.

    Args:
        model, guide: a `StateSpace`, and a guide of it whose `posterior` is a `Trajectory`: `MeanField`, `Filter`,
            `Smoother`, your own.
        x, u, mask, first, batch_size, seed: as in `sequence_log_likelihood`; masks are of whole frames, `(N, T)`.
        num_particles: K, all of them in memory at once for a batch.
        resample_below: when particles are drawn anew. None: after the steps that are best for each sequence, by a
            pilot run of 32 to 100 particles; with guides that look ahead that may be none. A share: where the effective
            sample size 1 / sum_k w_k^2 of the normalised weights is below it times K, which misleads with
            smoothers (`zoo.parts.particle_filter`); 0: never, which is plain importance sampling; 1: at every step.

    Raises:
        ValueError: a guide of another kind or of another model; what `sequence_log_likelihood` refuses.
    """
    if num_particles < 1 or batch_size < 1:
        raise ValueError(f"expected at least one particle and sequence, got {num_particles=}, {batch_size=}")
    if resample_below is not None and not 0 <= resample_below <= 1:
        raise ValueError(f"resample_below: expected a share of the particles, 0 to 1, got {resample_below}")
    observed = checked(x, u, mask, first)
    if observed.dim() == 3:
        raise ValueError(f"mask: frames are weighted as a whole, expected shape (N, T), got {tuple(observed.shape)}")
    found = torch.zeros(len(x), dtype=torch.double, device=x.device)
    with torch.no_grad(), held(model, guide), seeded(x.device, seed):
        for rows, T in in_batches(model, guide, observed, batch_size):
            args = tuple(None if v is None else v[rows, :T] for v in (x, u, None if mask is None else observed))
            carry = None if first is None else carried.given(model, first[rows])
            look_at(model, guide, args, carried.keyword(carry), rows)
            q = _proposal(model, guide, args, carry)
            found[rows] = q.log_evidence(num_particles, resample_below)
    if found.isnan().any():
        bad = found.isnan().nonzero().flatten().tolist()
        raise ValueError(f"the log weights of sequences {bad[:5]} ({len(bad)} in all) are NaN: look at their frames")
    return found


def _proposal(model: Any, guide: Any, args: tuple, carry: Any) -> Any:
    posterior = getattr(guide, "posterior", None)
    q = None if posterior is None else posterior(*args, **carried.keyword(carry))
    if not hasattr(q, "log_evidence"):
        raise ValueError(f"guide: expected one that draws step by step (MeanField, Filter, Smoother), got "
                         f"{type(guide).__name__}")  # fmt: skip
    if q.model is not model:
        raise ValueError(f"guide: {type(guide).__name__} is that of another {type(q.model).__name__}")
    return q
