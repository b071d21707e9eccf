"""Draws of frames, step by step, each fed on to the next: new sequences, forecasts, missing frames filled in.

A forecast or an imputation draws z of the observed past from a guide and the rest from the model. A state space whose
posterior has a closed form (`tractable`) needs no guide.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from zoo.parts.aside import evaluating
from zoo.parts.checks import check_controls, check_counts, check_gaps, refuse_entries
from zoo.parts.given.gaps import central_interval
from zoo.parts.kalman import Forecast
from zoo.parts.trajectory.carry import Carry
from zoo.parts.trajectory.density import inputs_of
from zoo.parts.trajectory.masks import ends, observed_frames
from zoo.parts.trajectory.time import at_steps
from zoo.parts.trajectory.tractable import Tractable, exactly, refuse_unused


class Draws(NamedTuple):
    """Sampled frames of N sequences, `num` draws of each; `zoo.infer.plot_draws` shows them.

    Attributes:
        z, x: `(num, N, T, latent_dim)` and `(num, N, T, data_dim)`: of a forecast its T = k frames alone, of an
            imputation all frames, the observed ones as they are.
        start: `(N,)`, number of frames before the first of these T: of a forecast all up to the last observed frame,
            of an imputation 0.
    """

    z: Tensor
    x: Tensor
    start: Tensor

    def interval(self, mass: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the central intervals that hold `mass` of the draws of x, each `(N, T, data_dim)`."""
        return central_interval(self.x, mass)

    def moments(self) -> Forecast:
        """Means and covariances of z and of x in each frame, over the draws."""
        return Forecast(self.z.mean(0), _covariance(self.z), self.x.mean(0), _covariance(self.x))


def _covariance(v: Tensor) -> Tensor:
    """Covariances over the first axis, `(N, T, size, size)`."""
    away = v - v.mean(0)
    # over num - 1, since the mean is that of the same draws
    return torch.einsum("snti,sntj->ntij", away, away) / (len(v) - 1)


@torch.no_grad()
def roll(
    model: Any, z: Tensor, x: Tensor, known_z: Tensor, known_x: Tensor, u: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draws of the unknown steps of z and x: z_t from the transition, x_t from the emission, each fed on to the next.

    Args:
        z, x: `(..., T, latent_dim)`, `(..., T, data_dim)`, the same leading axes.
        known_z, known_x: boolean, True where the value is given, `(T,)` or with leading axes.
        u: controls.

    Returns:
        z and x, the known steps as they came.
    """
    z, x, T = z.clone(), x.masked_fill(~known_x.unsqueeze(-1), 0.0), x.shape[-2]
    lead, flags = x.shape[:-2], [(_flags(known_z, t), _flags(known_x, t)) for t in range(T)]
    prefix = 0
    while prefix < T and flags[prefix] == (True, True):
        prefix += 1
    carry = None
    if model.carries and prefix:
        # the first steps, known in all sequences, need no loop: `states` reads them at once
        carry = model.carry_on(z[..., :prefix, :], x[..., :prefix, :], None if u is None else u[..., :prefix, :])
    # inputs may depend on x, which is being drawn, so a model that carries is asked for those of one frame at a time:
    # those of all frames, anew at each step, would cost T^2. A model that does not carry promises not to look at x
    fixed = None if model.carries else at_steps(model.inputs(x, u), T)
    for t in range(prefix if carry is not None else 0, T):
        if fixed is None:
            now = None if u is None else u[..., t : t + 1, :]
            (inputs,) = at_steps(inputs_of(model, x[..., t : t + 1, :], now, carry), 1)
        else:
            inputs = fixed[t]
        s = model.start(x, *inputs) if carry is None else model.advance(carry.s, carry.z, carry.x, *inputs)
        for value, known, flag, conditional in (
            (z, known_z, flags[t][0], lambda s=s: model.transition(s)),
            (x, known_x, flags[t][1], lambda s=s, t=t: model.emission(z[..., t, :], s)),
        ):
            if flag is not True:
                draw = conditional().expand(lead).sample()
                kept = None if flag is False else known[..., t, None]
                value[..., t, :] = draw if kept is None else torch.where(kept, value[..., t, :], draw)
        carry = Carry(s, z[..., t, :], x[..., t, :])
    return z, x


def _flags(known: Tensor, t: int) -> bool | None:
    """True where step t is known in all sequences, False where in none, None where they differ."""
    now = known[..., t]
    return True if bool(now.all()) else None if bool(now.any()) else False


@torch.no_grad()
def draws_of(guide: Callable, num: int, x: Tensor, u: Tensor | None, mask: Tensor | None) -> Tensor:
    """`num` trajectories from the guide for each sequence, `(num, N, T, latent_dim)`."""
    arguments: tuple[Tensor | None, ...] = (x, u, mask)
    # trailing Nones are left out, since a guide may take x alone
    while arguments[-1] is None:
        arguments = arguments[:-1]
    # in training mode one pattern of dropout would be common to all draws
    # a guide of a form in which z is summed out (KVAE) has a program of its own for whole trajectories
    program = getattr(guide, "trajectories", guide)
    # not `get_trace`, which adds a table of shapes to an error's words
    with evaluating(guide), pyro.plate("draws", num, dim=-2), poutine.trace() as tracer:
        program(*arguments)
    trace = tracer.trace
    if "z" not in trace.nodes:
        raise ValueError("guide: expected a site 'z', it samples none")
    z = trace.nodes["z"]["value"]
    return z.expand(num, len(x), *z.shape[-2:])


@torch.no_grad()
def extend(model: Any, z: Tensor, x: Tensor, k: int, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `Forecasts.extend`."""
    check_counts(k=k)
    # here too, since without frames there is nothing for `check` to look at
    check_controls(u, model.control_dim, type(model).__name__)
    T = x.shape[-2]
    if T:
        model.check(x, None if u is None else u[..., :T, :])
    if z.shape != (*x.shape[:-1], model.latent_dim):
        raise ValueError(f"z: expected shape {(*x.shape[:-1], model.latent_dim)} as x has it, got {tuple(z.shape)}")
    if u is not None and u.shape[:-1] != (*x.shape[:-2], T + k):
        raise ValueError(f"u: expected the controls of {tuple(x.shape[:-2])} sequences and {T} + {k} frames, got "
                         f"{tuple(u.shape)}")  # fmt: skip
    known = torch.arange(T + k, device=x.device) < T
    z, x = (_padded(v, k) for v in (z, x))
    z, x = roll(model, z, x, known, known, u)
    return z[..., T:, :], x[..., T:, :]


def generate(model: Any, num: int, T: int, u: Tensor | None, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """See `Forecasts.generate`."""
    check_counts(num=num, T=T)
    if isinstance(model, Tractable):
        return model.exact_sample(num, T, u, **values)
    refuse_unused(model, values)
    like = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    return extend(model, like.new_zeros(num, 0, model.latent_dim), like.new_zeros(num, 0, model.data_dim), T, u)


@torch.no_grad()
def sample_forecast(
    model: Any,
    x: Tensor,
    k: int,
    num: int,
    guide: Callable | None,
    u: Tensor | None,
    mask: Tensor | None,
    values: dict[str, Tensor],
) -> Draws:
    """See `Forecasts.sample_forecast`."""
    check_counts(k=k, num=num)
    model.check(x, _until(x, u), mask)
    N, T = x.shape[:2]
    if u is not None and u.shape[1] != T + k:
        raise ValueError(f"u: expected the controls of {T} + {k} frames, got {u.shape[1]}")
    end = ends(x, mask).unsqueeze(-1)
    if guide is None:
        seen = x.new_ones(x.shape, dtype=torch.bool) if mask is None else mask
        seen = _padded(seen if seen.ndim == 3 else seen.unsqueeze(-1).expand(x.shape), k)
        z, x = exactly(model).exact_draws(_padded(x, k), num, u, seen, **values)
    else:
        refuse_unused(model, values)
        refuse_entries(mask, f"a forecast of a {type(model).__name__} by draws")
        model.check_guide(guide)
        z = draws_of(guide, num, x, _until(x, u), mask)
        before = torch.arange(T + k, device=x.device) < end
        seen = torch.nn.functional.pad(observed_frames(x, mask), (0, k))
        z, x = roll(model, _padded(z, k), _padded(x.expand(num, -1, -1, -1), k), before, seen, u)
    future = (end + torch.arange(k, device=x.device))[None, :, :, None]
    z, x = (v.gather(-2, future.expand(num, N, k, v.shape[-1])) for v in (z, x))
    return Draws(z, x, end.squeeze(-1))


@torch.no_grad()
def draw_imputation(
    model: Any, x: Tensor, mask: Tensor, guide: Callable | None, num: int, u: Tensor | None, values: dict[str, Tensor]
) -> Draws:
    """See `Forecasts.sample_imputation`."""
    check_counts(num=num)
    check_gaps(mask)
    model.check(x, u, mask)
    end = ends(x, mask)
    if guide is None:
        z, x = exactly(model).exact_draws(x, num, u, mask, **values)
    else:
        refuse_unused(model, values)
        refuse_entries(mask, f"an imputation in a {type(model).__name__} by draws")
        model.check_guide(guide)
        z = draws_of(guide, num, x, u, mask)
        # the guide's z of padding is a draw from the transition that does not know the x drawn there: draw both anew
        before = torch.arange(x.shape[1], device=x.device) < end.unsqueeze(-1)
        z, x = roll(model, z, x.expand(num, -1, -1, -1), before, mask, u)
    return Draws(z, x, torch.zeros_like(end))


def _until(x: Any, u: Tensor | None) -> Tensor | None:
    """The controls of the frames of x."""
    return u[:, : len(x[0])] if isinstance(u, Tensor) and isinstance(x, Tensor) and x.ndim > 1 else u


def _padded(v: Tensor, k: int) -> Tensor:
    """v with k more frames, of zeros (False)."""
    return torch.nn.functional.pad(v, (0, 0, 0, k))
