"""Forecasts after each sequence's own end, and missing entries filled in: exact, from `kalman.Parameters`."""

import torch
from torch import Size, Tensor

from zoo.parts.kalman import inference as kalman
from zoo.parts.kalman.em import completion
from zoo.parts.kalman.inference import Forecast
from zoo.parts.kalman.parameters import Parameters, observed, times


def forecast_after(p: Parameters, x: Tensor, k: int, u: Tensor | None, mask: Tensor, end: Tensor) -> Forecast:
    """The moments of the k frames after the first `end` frames of each sequence, given all that is observed.

    Args:
        x: `(N, T, m)`, finite.
        k: number of frames to forecast.
        u: controls of T + k frames.
        mask: `(N, T, m)`, True where observed; nothing is observed after `end`.
        end: number of frames before the forecast, `(N,)`.
    """
    data, entries = (torch.nn.functional.pad(a, (0, 0, 0, k)) for a in (x, mask))
    # the k frames are missing ones: the filter's prediction of them is the forecast, wherever a sequence ends
    found = kalman.filter(p, data, u, entries)
    moments = found.predicted_means, found.predicted_covariances
    ahead = end.unsqueeze(-1) + torch.arange(k, device=x.device)
    rows = torch.arange(len(x), device=x.device).unsqueeze(-1)
    # the filter determines the diffuse starts of all sequences at one frame, the last that any of them needs
    if (lost := moments[0][rows, ahead].isnan().flatten(1).any(1)).any():
        raise ValueError(f"x: sequence {int(lost.nonzero()[0])} (counted from 0) ends before the diffuse starts of all "
                         "sequences are determined; forecast it alone")  # fmt: skip
    return Forecast(*(a[rows, ahead] for a in (*moments, *observed(p, *moments, u))))


def fill(p: Parameters, x: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """x, its missing entries replaced by those of x* + R_{.o} R_oo^-1 (x_o - x*_o), o the observed entries of a frame.

    `expected` is x*. If x* = C E[z_t | x_o] + D u_t + d, with the smoother's mean, the result is E[x | x_o]; if x* is a
    draw from p(x | z), the result is a draw from p(x | z, x_o).
    """
    # noise that is correlated within a frame ties a missing entry to the observed ones even given z
    residual = (x - expected).masked_fill(~mask, 0.0)
    return torch.where(mask, x, expected + times(completion(p.emission_covariance, mask), residual))


def sample_filled(p: Parameters, x: Tensor, num: int, u: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
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
    return z, fill(p, x, mean + times(root, torch.randn_like(mean)), mask)
