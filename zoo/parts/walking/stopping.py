"""Steps in a world with walls."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.parts.checks import check_counts
from zoo.parts.distributions import MixtureOfNormalsDensity
from zoo.parts.networks import mlp
from zoo.parts.recorded import Recorded


class StoppingStep(Recorded, nn.Module):
    """p(s_t | s_{t-1}, u_t) = g N(s_t; s_{t-1} + M u_t, r^2 I) + (1 - g) N(s_t; s_{t-1}, r^2 I): a step is made or not.

    g = sigmoid(f(L^{-1} (s_{t-1} + M u_t) / 2, u_t)), L L' = M M', is a gate that learns where walls are, its places in
    units of two steps: M is free in scale and shear. The gate sees the action: one that moves nothing has no gradient
    in M, so its place says nothing of walls.

    The paper's transition, s_t = s_{t-1} + g M u_t + noise, has the mean of this one. It is not learned from frames
    without labels, and neither is this one by a plain bound: see `guides.Watching` and its switch `follow`.

    References: Fraccaro et al. 2018, image walks with walls.

    Args:
        control_dim: size of u_t.
        state_dim: size of s_t.
        hidden: widths of the gate's network.
        open: the gate's logit at the start.

    Attributes:
        led: p(s | u) is scored with states and M held constant, so that the gate alone learns from it; False at first,
            and set by `guides.Watching.follow`.

    Raises:
        ValueError: a size below 1; `open` infinite or NaN.
    """

    def __init__(
        self,
        control_dim: int,
        state_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        open: float = 1.0,
    ) -> None:
        super().__init__()
        check_counts(control_dim=control_dim, state_dim=state_dim)
        if not math.isfinite(open):
            raise ValueError(f"open: expected a finite number, got {open}")
        self.control_dim, self.state_dim = control_dim, state_dim
        self.move = nn.Linear(control_dim, state_dim, bias=False)
        self.net = mlp(state_dim + control_dim, hidden, 1, nn.Tanh)
        with torch.no_grad():
            self.net[-1].bias.fill_(open)  # type: ignore[operator, union-attr]
        self.led = False

    def gate(self, s: Tensor, u: Tensor, *, held: bool = False) -> Tensor:
        """The logit of g for the place s = s_{t-1} + M u_t and the action u_t, `(...)`; `held`: f is held constant."""
        # a gradient through the units would move M for the sake of the gate
        with torch.no_grad():
            M = self.move.weight
            # where all actions move along a line M M' is singular, up to rounding, which grows with M
            least = 1e-8 + 16 * torch.finfo(M.dtype).eps * M.square().sum()
            units = torch.linalg.cholesky(M @ M.T + least * torch.eye(self.state_dim, dtype=s.dtype, device=s.device))
            units = 0.5 * torch.linalg.inv(units).mT
        place = s @ units
        given = torch.cat([place, u.expand(*place.shape[:-1], -1)], -1)
        if held:
            constants = {name: p.detach() for name, p in self.net.named_parameters()}
            return functional_call(self.net, constants, (given,)).squeeze(-1)
        return self.net(given).squeeze(-1)

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        moved = self.move(u)
        return s + moved * self.gate(s + moved, u).sigmoid().unsqueeze(-1)

    def likeliest(self, s: Tensor, u: Tensor) -> Tensor:
        moved = self.move(u)
        return torch.where(self.gate(s + moved, u).unsqueeze(-1) > 0, s + moved, s)

    def transition(self, s: Tensor, u: Tensor, scale: Any) -> MixtureOfNormalsDensity:
        moved = self.move(u)
        if self.led:
            s, moved = s.detach(), moved.detach()
        logit = self.gate(s + moved, u)
        loc = torch.stack(torch.broadcast_tensors(s + moved, s), -2)
        logits = torch.stack([nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)], -1)
        return MixtureOfNormalsDensity(logits, loc, torch.as_tensor(scale, dtype=loc.dtype, device=loc.device))
