"""Forecasts after each sequence's own end, and missing entries filled in: exact, from `kalman.Parameters`."""

import torch
from torch import Size, Tensor

from zoo.parts.kalman import inference as kalman
from zoo.parts.kalman.distributions import observed
from zoo.parts.kalman.inference import Forecast, Parameters
from zoo.parts.kalman.steps import apply


def forecast(p: Parameters, x: Tensor, k: int, u: Tensor | None, mask: Tensor, end: Tensor) -> Forecast:
    """The moments of the k frames after the first `end` frames of each sequence, given all that is observed.

    Args:
        x: `(N, T, m)`, finite.
        u: controls of T + k frames.
        mask: `(N, T, m)`; nothing is observed after `end`.
        end: `(N,)`.
    """
    data, entries = (torch.nn.functional.pad(a, (0, 0, 0, k)) for a in (x, mask))
    # the k frames are missing ones: the filter's prediction of them is the forecast, wherever a sequence ends
    found = kalman.filter(p, data, u, entries)
    moments = found.predicted_means, found.predicted_covariances
    ahead = end.unsqueeze(-1) + torch.arange(k, device=x.device)
    rows = torch.arange(len(x), device=x.device).unsqueeze(-1)
    return Forecast(*(a[rows, ahead] for a in (*moments, *observed(p, *moments, u))))


def fill(p: Parameters, x: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """x, its missing entries those of x* + R_{.o} R_oo^-1 (x_o - x*_o), where o are the observed entries of a frame.

    `expected` is x*. If x* is E[x_t | x], the smoother's, the result is the mean given the data; if x* is a draw given
    z, the result is a draw given z and the data.
    """
    # noise that the entries of a frame share ties a missing entry to the observed ones beyond what z says
    residual = (x - expected).masked_fill(~mask, 0.0)
    seen = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), p.emission_covariance, 0.0)
    # the pseudo-inverse of R with zeros in the missing rows is R_oo^-1 in its place; and R may be singular (no noise)
    gain = p.emission_covariance @ torch.linalg.pinv(seen, hermitian=True)
    return torch.where(mask, x, expected + apply(gain, residual))


def draws(p: Parameters, x: Tensor, num: int, u: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws from p(z, x_missing | x_observed): z `(num, N, T, n)`, and x `(num, N, T, m)` with its gaps filled.

    Args:
        x: `(N, T, m)`, finite.
        mask: `(N, T, m)`; None: all of x is observed.
    """
    z = kalman.sample_posterior(p, x, u, mask, Size((num,)))
    if mask is None:
        return z, x.expand(num, *x.shape)
    # z is known, so its covariance is zero and that of x_t is R
    mean, covariance = observed(p, z, z.new_zeros(p.state_dim, p.state_dim), u)
    # R may be singular, which a Cholesky factor refuses
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)
    return z, fill(p, x, mean + apply(root, torch.randn_like(mean)), mask)
