"""The moments of the first frames after a diffuse start, as `kalman.filter` and `kalman.smoother` give them."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.parts.kalman.diffuse.start import Begun
from zoo.parts.kalman.parameters import times


def filtered_start(begun: Begun) -> dict[str, Tensor]:
    """The fields of `Filtered` for the first d frames.

    Moments given fewer than d frames do not exist and are NaN; log p(x_{1:d}) stands at frame d, zeros stand before it.
    """
    means, covariances, _ = _by_step(begun)
    lead, none = torch.broadcast_shapes(means.shape[:-2], covariances.shape[:-3]), torch.full_like(means, math.nan)
    means, none = (a[..., :-1, :].expand(*lead, -1, -1) for a in (means, none))
    covariances, nothing = covariances[..., :-1, :, :].expand(*lead, -1, -1, -1), none.unsqueeze(-1)
    nothing = nothing.expand(*none.shape, none.shape[-1])
    return {
        "loglik_per_step": pad(begun.log_density.unsqueeze(-1), (begun.steps - 1, 0)),
        "predicted_means": none,
        "predicted_covariances": nothing,
        "filtered_means": torch.cat([none[..., 1:, :], means[..., -1:, :]], -2),
        "filtered_covariances": torch.cat([nothing[..., 1:, :, :], covariances[..., -1:, :, :]], -3),
    }


def smoothed_start(begun: Begun, mean: Tensor | None = None, covariance: Tensor | None = None) -> dict[str, Tensor]:
    """The fields of `Smoothed` for the first d frames, from the moments of z_{d+1} given all frames, if there are more.

    Without these the pair (z_d, z_{d+1}) is left out of the cross-covariances.
    """
    if mean is not None and covariance is not None:
        begun = _smoothed(begun, mean, covariance)
    means, covariances, cross = _by_step(begun)
    given = filtered_start(begun)
    return {name: given[name] for name in ("filtered_means", "filtered_covariances")} | {
        "smoothed_means": means[..., :-1, :].expand_as(given["filtered_means"]),
        "smoothed_covariances": covariances[..., :-1, :, :].expand_as(given["filtered_covariances"]),
        "smoothed_cross_covariances": cross if mean is not None else cross[..., :-1, :, :],
    }


def _smoothed(begun: Begun, mean: Tensor, covariance: Tensor) -> Begun:
    """The states of the first frames given all: those given the first, moved by the news about z_{d+1}."""
    n = mean.shape[-1]
    known = begun.ahead
    # in units of its standard deviations, since a level and its trend may differ by many orders of magnitude; a
    # direction that is certain after d frames gets no news, hence the pseudo-inverse
    sd = known.diagonal(dim1=-2, dim2=-1).detach().clamp(min=0.0).sqrt()
    sd = torch.where(sd > 0, sd, 1.0)
    inverse = torch.linalg.pinv(known / (sd.unsqueeze(-1) * sd.unsqueeze(-2)), rtol=1e-12, hermitian=True)
    pull = begun.covariance[..., -n:] @ (inverse / (sd.unsqueeze(-1) * sd.unsqueeze(-2)))
    moved = begun.mean + times(pull, mean - begun.mean[..., -n:])
    return begun._replace(mean=moved, covariance=begun.covariance + pull @ (covariance - known) @ pull.mT)


def _by_step(begun: Begun) -> tuple[Tensor, Tensor, Tensor]:
    """Means and covariances of z_1..z_{d+1}, and the covariances of z_{t+1} with z_t."""
    size = begun.steps + 1
    means = begun.mean.unflatten(-1, (size, -1))
    blocks = begun.covariance.unflatten(-1, (size, -1)).unflatten(-3, (size, -1)).transpose(-3, -2)
    take = torch.arange(size, device=means.device)
    return means, blocks[..., take, take, :, :], blocks[..., take[1:], take[:-1], :, :]
