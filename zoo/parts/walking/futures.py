"""Frames that a model of walks predicts, from a memory and actions alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Futures(NamedTuple):
    """The frames after the memorised ones, t > tau; leading axes `...` are `(num, N)` of draws, `(N,)` of a prediction.

    Attributes:
        s: the states, `(..., T - tau, state_dim)`.
        z: the codes, `(..., T - tau, latent_dim)`; None of a model without codes.
        mean: of p(x_t | z_t, c_t), `(..., T - tau, data_dim)`.
        x: a draw from it; of a prediction the mean itself.
        memorised: the states of the memorised frames, `(..., tau, state_dim)`.
    """

    s: Tensor
    z: Tensor | None
    mean: Tensor
    x: Tensor
    memorised: Tensor


def one_future(model: Any, x: Tensor, u: Tensor, mask: Tensor | None, walk: Any, draw: bool) -> Futures:
    """One future of each memory: drawn, or the most probable state and code at each step.

    Args:
        model: a `GTMSM`.
        x: memorised frames `(N, tau, data_dim)`, zero where the mask is False.
        u: actions `(N, T, control_dim)`.
        mask: bool `(N, tau)`.
        walk: the distribution of s_1..s_tau.
        draw: False takes the most probable values.
    """
    tau = x.shape[1]
    s = walk.sample() if draw else walk.likeliest
    ahead = model.walk(u[:, tau:], after=s[..., -1, :])
    at = ahead.sample() if draw else ahead.likeliest
    c = model.recall.context(s, x, at, mask)
    z = None
    if model.latent_dim:
        z = model.recall.prior(c).sample() if draw else model.recall.likeliest(c)
    p = model.recall.emission(z, c)
    return Futures(at, z, p.mean, p.sample() if draw else p.mean, s)


def stacked(futures: list[Futures]) -> Futures:
    """Several futures as one, with an axis in front."""
    return Futures(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*futures, strict=True)))
