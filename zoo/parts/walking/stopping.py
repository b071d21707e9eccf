"""Steps in a world with walls."""

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

    g = sigmoid(f(W (s_{t-1} + M u_t - m), u_t)) is a gate that learns where walls are, W (. - m) whitening by the
    moments of the states that guides have drawn in training. The gate sees the action: one that moves nothing has no
    gradient in M, so its place says nothing of walls.

    The paper's transition, s_t = s_{t-1} + g M u_t + noise, has the mean of this one. It is not learned from frames
    without labels, and neither is this one by a plain bound: see `guides.Watching` and its switch `follow`.

    References: Fraccaro et al. 2018, image walks with walls.

    Args:
        control_dim: size of u_t.
        state_dim: size of s_t.
        hidden: widths of the gate's network.
        open: the gate's logit at the start.
        rate: weight of the latest states in the moments.

    Raises:
        ValueError: a size below 1; a rate outside (0, 1].
    """

    def __init__(
        self,
        control_dim: int,
        state_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        open: float = 1.0,
        rate: float = 0.05,
    ) -> None:
        super().__init__()
        check_counts(control_dim=control_dim, state_dim=state_dim)
        if not 0 < rate <= 1:
            raise ValueError(f"rate: expected more than 0 and at most 1, got {rate}")
        self.control_dim, self.state_dim, self.rate = control_dim, state_dim, rate
        self.move = nn.Linear(control_dim, state_dim, bias=False)
        self.net = mlp(state_dim + control_dim, hidden, 1, nn.Tanh)
        with torch.no_grad():
            self.net[-1].bias.fill_(open)
        self.register_buffer("mean", torch.zeros(state_dim))
        self.register_buffer("covariance", torch.eye(state_dim))

    def gate(self, s: Tensor, u: Tensor, *, held: bool = False) -> Tensor:
        """The logit of g for the place s = s_{t-1} + M u_t and the action u_t, `(...)`; `held`: f is held constant."""
        with torch.no_grad():
            eye = torch.eye(self.state_dim, dtype=s.dtype, device=s.device)
            # states along a line have a singular covariance
            whiten = torch.linalg.inv(torch.linalg.cholesky(self.covariance + 1e-8 * eye)).mT
        net: Any = self.net
        if held:
            constants = {name: p.detach() for name, p in self.net.named_parameters()}
            net = lambda given: functional_call(self.net, constants, (given,))  # noqa: E731
        place = (s - self.mean) @ whiten
        return net(torch.cat([place, u.expand(*place.shape[:-1], -1)], -1)).squeeze(-1)

    @torch.no_grad()
    def track(self, s: Tensor) -> None:
        """Moves the moments of the states a little towards those of s, `(..., state_dim)`."""
        s = s.flatten(0, -2)
        if len(s) > 1:
            self.mean.lerp_(s.mean(0), self.rate)
            self.covariance.lerp_(torch.cov(s.T).reshape(self.covariance.shape), self.rate)

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        moved = self.move(u)
        return s + moved * self.gate(s + moved, u).sigmoid().unsqueeze(-1)

    def likeliest(self, s: Tensor, u: Tensor) -> Tensor:
        moved = self.move(u)
        return torch.where(self.gate(s + moved, u).unsqueeze(-1) > 0, s + moved, s)

    def transition(self, s: Tensor, u: Tensor, scale: Any, *, held: bool = False) -> MixtureOfNormalsDensity:
        moved = self.move(u)
        logit = self.gate(s + moved, u, held=held)
        loc = torch.stack(torch.broadcast_tensors(s + moved, s), -2)
        logits = torch.stack([nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)], -1)
        return MixtureOfNormalsDensity(logits, loc, torch.as_tensor(scale, dtype=loc.dtype, device=loc.device))
