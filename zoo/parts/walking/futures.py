"""Frames that a model of walks predicts, from a memory and actions alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.parts.aside import evaluating
from zoo.parts.checks import check_controls, check_offers, check_tensor, refuse_unobserved
from zoo.parts.trajectory.masks import filled


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


def drawn(model: Any, x: Tensor, u: Tensor, num: int, guide: Any, mask: Tensor | None) -> Futures:
    """`num` futures of a `GTMSM`, one after another: arguments as in its `generate`."""
    _check(model, x, u, guide, mask)
    with torch.no_grad(), evaluating(model, guide):
        futures = [_one(model, x, u, guide, mask, draw=True) for _ in range(num)]
    return Futures(*(None if parts[0] is None else torch.stack(parts) for parts in zip(*futures, strict=True)))  # type: ignore[arg-type]


def likeliest(model: Any, x: Tensor, u: Tensor, guide: Any, mask: Tensor | None) -> Futures:
    """The most probable future of a `GTMSM`, step by step: arguments as in its `predict`."""
    _check(model, x, u, guide, mask)
    with torch.no_grad(), evaluating(model, guide):
        return _one(model, x, u, guide, mask, draw=False)


def _one(model: Any, x: Tensor, u: Tensor, guide: Any, mask: Tensor | None, draw: bool) -> Futures:
    tau, z = x.shape[1], None
    walk = model.walk(u[:, :tau]) if guide is None else guide.walk(x, u[:, :tau], mask)
    memorised = walk.sample() if draw else walk.likeliest
    ahead = model.walk(u[:, tau:], after=memorised[..., -1, :])
    s = ahead.sample() if draw else ahead.likeliest
    c = model.recall.context(memorised, filled(x, mask), s, mask)
    if model.latent_dim:
        z = model.prior(c).sample() if draw else model.recall.likeliest(c)
    p = model.emission(z, c)
    return Futures(s, z, p.mean, p.sample() if draw else p.mean, memorised)


def _check(model: Any, x: Tensor, u: Tensor, guide: Any, mask: Tensor | None) -> None:
    check_tensor(x)
    check_tensor(u, "u")
    tau = x.shape[1] if x.ndim == 3 else 0
    if tau and (u.ndim != 3 or len(u) != len(x) or u.shape[1] <= tau):
        expected = f"({len(x)}, T, {model.control_dim}) with T above the {tau} memorised frames"
        raise ValueError(f"u: expected shape {expected}, got {tuple(u.shape)}")
    check_controls(u, model.control_dim, type(model).__name__)
    # without frames x is refused, whatever u is
    model.check_frames(x, u[:, :tau] if tau else None, mask)
    if mask is not None:
        refuse_unobserved(mask, ": there is no memory")
    if guide is not None:
        check_offers("guide", guide, "walk", advice="such as guides.Watching")
        model.check_guide(guide)
