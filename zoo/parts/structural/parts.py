"""A series taken apart: each component of x in each frame, given all of x."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.kalman.distributions import LinearGaussianPosterior
from zoo.parts.kalman.parameters import Parameters, observed


class Component(NamedTuple):
    """A component of x in each frame given all of x: mean and variance, `(N, T, data_dim)`."""

    mean: Tensor
    variance: Tensor


def decompose(parts: Mapping[str, Parameters], posterior: LinearGaussianPosterior) -> dict[str, Component]:
    """The components of x by name, C_i z_i + D_i u + d_i each; of a part without states or inputs, its noise.

    Args:
        parts: parameters of each part, whose states stand in this order in those of the posterior.
        posterior: p(z | x) of their sum.
    """
    whole, x, u = posterior.parameters, posterior.x, posterior.u
    means, covariances = posterior.mean, posterior.covariances
    signal, spread = observed(whole, means, covariances, u)
    spread = (spread - whole.emission_covariance).diagonal(dim1=-2, dim2=-1)
    noise = whole.emission_covariance.diagonal(dim1=-2, dim2=-1)
    found, start = {}, 0
    for name, p in parts.items():
        end = start + p.state_dim
        own = p.emission_covariance.diagonal(dim1=-2, dim2=-1)
        if end == start and p.emission_input is None and p.emission_bias is None:
            # the noise of a frame is what x leaves over; parts share it by their variances, and where x is missing
            # nothing is known of it
            share = torch.where(noise > 0, own / noise, 0.0)
            seen = torch.ones_like(x, dtype=torch.bool) if posterior.mask_ is None else posterior.mask_
            mean = torch.where(seen, share * (x - signal), 0.0)
            variance = torch.where(seen, share**2 * spread + own * (1 - share), own)
        else:
            block = covariances[..., start:end, start:end]
            mean, both = observed(p, means[..., start:end], block, u if p.control_dim else None)
            variance = both.diagonal(dim1=-2, dim2=-1) - own
        found[name], start = Component(mean, variance), end
    return found
