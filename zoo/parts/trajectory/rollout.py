"""Rolling a sequence model forward step by step, its own draws fed back: what generates, forecasts and imputes."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from zoo.parts.aside import evaluating


class Carry(NamedTuple):
    """The step before the first frame of a chunk: all that the chunk needs to know of what came before it.

    Attributes:
        s: its state, a tensor or a NamedTuple of tensors.
        z, x: `(..., latent_dim)` and `(..., data_dim)`; x is zero where it was not observed.
    """

    s: Any
    z: Tensor
    x: Tensor

    def detach(self) -> "Carry":
        """Without the graph that made it, as truncated back-propagation needs it."""
        return Carry(each(self.s, Tensor.detach), self.z.detach(), self.x.detach())


class Draws(NamedTuple):
    """Sampled frames; `zoo.infer.plot_draws` shows them.

    Attributes:
        z, x: `(num, N, T, latent_dim)` and `(num, N, T, data_dim)`.
        start: `(N,)`, the number of frames that come before them: of a forecast all up to the last observed one.
    """

    z: Tensor
    x: Tensor
    start: Tensor

    def interval(self, mass: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends of the central intervals of x, each `(N, T, data_dim)`."""
        if not 0 < mass < 1:
            raise ValueError(f"mass: expected a number between 0 and 1, got {mass}")
        ends = self.x.new_tensor([(1 - mass) / 2, (1 + mass) / 2])
        lower, upper = self.x.quantile(ends, dim=0)
        return lower, upper


def each(s: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A state with every tensor of it changed."""
    if s is None:
        return None
    return change(s) if isinstance(s, Tensor) else type(s)(*(each(part, change) for part in s))


def at_steps(values: tuple[Any, ...], T: int) -> list[tuple[Any, ...]]:
    """Values with a time axis as a list over time. One call for each: indexing at each step copies in backward."""
    return list(zip(*(v.unbind(-2) for v in values), strict=True)) if values else [()] * T


@torch.no_grad()
def roll(
    model: Any, z: Tensor, x: Tensor, known_z: Tensor, known_x: Tensor, u: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """z and x with what is not known drawn step by step: z_t from the transition, x_t from the emission, both fed on.

    Args:
        z, x: `(..., T, latent_dim)`, `(..., T, data_dim)`, the same leading axes.
        known_z, known_x: boolean, `(T,)` or with leading axes.
        u: controls.
    """
    z, x, T = z.clone(), x.masked_fill(~known_x.unsqueeze(-1), 0.0), x.shape[-2]
    lead, flags = x.shape[:-2], [(_flags(known_z, t), _flags(known_x, t)) for t in range(T)]
    prefix = 0  # as much as is known of all sequences is read at once
    while prefix < T and flags[prefix] == (True, True):
        prefix += 1
    carry = None
    if model.carries and prefix:
        carry = model.carry_on(z[..., :prefix, :], x[..., :prefix, :], None if u is None else u[..., :prefix, :])
    fixed = None if model.carries else list(zip(*(v.unbind(-2) for v in model.inputs(x, u)), strict=True)) or [()] * T
    for t in range(prefix if carry is not None else 0, T):
        if fixed is None:
            now = None if u is None else u[..., t : t + 1, :]
            inputs = tuple(v.unbind(-2)[0] for v in model.inputs(x[..., t : t + 1, :], now, carry))
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
    """Whether step t is known: of all sequences, of none, or None where they differ."""
    now = known[..., t]
    return True if bool(now.all()) else None if bool(now.any()) else False


@torch.no_grad()
def draws_of(guide: Callable, num: int, x: Tensor, u: Tensor | None, mask: Tensor | None) -> Tensor:
    """`num` trajectories from the guide for each sequence, `(num, N, T, latent_dim)`."""
    arguments: tuple[Tensor | None, ...] = (x, u, mask)
    while arguments[-1] is None:
        arguments = arguments[:-1]  # a guide may take x alone
    with evaluating(guide), pyro.plate("draws", num, dim=-2):  # one dropout would be common to all draws
        trace = poutine.trace(guide).get_trace(*arguments)
    if "z" not in trace.nodes:
        raise ValueError("guide: it samples no site 'z'")
    z = trace.nodes["z"]["value"]
    return z.expand(num, len(x), *z.shape[-2:])


@torch.no_grad()
def forecast(
    model: Any, x: Tensor, horizon: int, num: int, guide: Callable, u: Tensor | None, mask: Tensor | None
) -> Draws:
    """See `StateSpace.forecast`."""
    _at_least_one(horizon=horizon, num=num)
    model.check(x, None, mask)
    N, T = x.shape[:2]
    if u is not None and u.shape[1] != T + horizon:
        raise ValueError(f"u: expected the controls of {T} + {horizon} frames, got {u.shape[1]}")
    past = None if u is None else u[:, :T]
    model.check_guide(guide)
    z = draws_of(guide, num, x, past, mask)
    time, end = torch.arange(T + horizon, device=x.device), ends(x, mask).unsqueeze(-1)
    seen = torch.nn.functional.pad(_frames(x, mask), (0, horizon))
    z, x = (torch.nn.functional.pad(v, (0, 0, 0, horizon)) for v in (z, x.expand(num, -1, -1, -1)))
    before = time < end
    z, x = roll(model, z, x, before, seen, u)
    future = (end + torch.arange(horizon, device=x.device))[None, :, :, None]
    z, x = (v.gather(-2, future.expand(num, N, horizon, v.shape[-1])) for v in (z, x))
    return Draws(z, x, end.squeeze(-1))


@torch.no_grad()
def impute(model: Any, x: Tensor, mask: Tensor, guide: Callable, num: int, u: Tensor | None) -> Draws:
    """See `StateSpace.impute`."""
    _at_least_one(num=num)
    model.check(x, u, mask)
    model.check_guide(guide)
    z = draws_of(guide, num, x, u, mask)
    end = ends(x, mask)
    before = torch.arange(x.shape[1], device=x.device) < end.unsqueeze(-1)
    z, x = roll(model, z, x.expand(num, -1, -1, -1), before, _frames(x, mask), u)
    return Draws(z, x, torch.zeros_like(end))


def _at_least_one(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}: expected a whole number, at least 1, got {value}")


def _frames(x: Tensor, mask: Tensor | None) -> Tensor:
    """Which frames are observed, `(N, T)`."""
    if mask is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if mask.ndim > 2:
        raise ValueError(f"mask: frames are drawn as a whole, expected shape (N, T), got {tuple(mask.shape)}")
    return mask


def ends(x: Tensor, mask: Tensor | None) -> Tensor:
    """The number of frames up to the last observed one, `(N,)`."""
    frames = torch.arange(1, x.shape[1] + 1, device=x.device)
    return torch.where(_frames(x, mask), frames, 0).amax(-1)
