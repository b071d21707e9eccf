"""p(s | u): walks of an agent whose state is moved by known actions."""

from typing import Any, Protocol

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from zoo.parts.distributions import DiagonalNormal
from zoo.parts.distributions.expanded import expanded
from zoo.parts.distributions.vector import version_of


class WalkStep(Protocol):
    """The mean of p(s_t | s_{t-1}, u_t), a state moved by an action; by default a Normal of standard deviation r.

    Besides, a step may state

    - `path(first, u, noise)`: s_1..s_T at once, s_1 = first + noise_1 and s_t = step(s_{t-1}, u_t) + noise_t; without
      it the steps are taken in a loop;
    - `transition(s, u, scale)`: p(s_t | s_{t-1}, u_t) itself, where it is no such Normal, with `likeliest(s, u)`, its
      most probable value for scale 0.

    Attributes:
        control_dim: size of u_t.
        state_dim: size of s_t.
    """

    control_dim: int
    state_dim: int

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        """The mean of s_t, `(..., state_dim)`, given s_{t-1} `(..., state_dim)` and u_t `(..., control_dim)`."""


class Walk(TorchDistribution):
    """p(s | u) = N(s_1; first, r^2 I) prod_{t > 1} p(s_t | s_{t-1}, u_t): event `(T, state_dim)`.

    Args:
        step: the transition, a `WalkStep`.
        first: mean of s_1, `(..., state_dim)`; the action u_1, which led there, is not used.
        u: actions `(..., T, control_dim)`; action u_t leads to s_t.
        scale: r, a number or a tensor without axes.
        goes_on: `first` is the state before s_1, and u_1 leads to s_1 as every other action does.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    # of the latest draw: value, noise, and the number of writes to the value
    _drawn: tuple[Any, Any, int] = (None, None, 0)

    def __init__(self, step: Any, first: Tensor, u: Tensor, scale: Any, *, goes_on: bool = False) -> None:
        self.step, self.first, self.u, self.scale, self.goes_on = step, first, u, scale, goes_on
        # draws of a transition of several modes jump, and have no derivative
        self.has_rsample = not hasattr(step, "transition")
        batch = torch.broadcast_shapes(u.shape[:-2], first.shape[:-1]) if first.ndim > 1 else u.shape[:-2]
        super().__init__(batch, Size((u.shape[-2], first.shape[-1])), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "Walk":
        return expanded(self, batch_shape)

    @property
    def likeliest(self) -> Tensor:
        """The walk without noise, `(..., T, state_dim)`; where a step has several modes, its most probable one."""
        shape = self._batch_shape + self._event_shape
        return self._follow(self.first.new_zeros(shape), getattr(self.step, "likeliest", self.step))

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = Size(sample_shape) + self._batch_shape + self._event_shape
        noise = torch.randn(shape, dtype=self.first.dtype, device=self.first.device)
        if not hasattr(self.step, "transition"):
            value = self._follow(noise * self.scale, self.step)
            self._drawn = value, noise, version_of(value)
            return value
        # the draws of a transition have a noise of their own; a first state is given one
        given = 0 if self.goes_on else 1
        noise = torch.cat([noise[..., :given, :] * self.scale, torch.zeros_like(noise[..., given:, :])], -2)
        return self._follow(noise, lambda s, u: self.step.transition(s, u, self.scale).sample())

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"s: expected shape (..., {self._event_shape[0]}, {self._event_shape[1]}), "
                             f"got {tuple(value.shape)}")  # fmt: skip
        # the gradient of a step that is led stops at its gate
        if getattr(self.step, "led", False):
            value = value.detach()
        first = self.first.unsqueeze(-2).expand(*value.shape[:-2], 1, -1)
        if self.goes_on:
            before = torch.cat([first, value[..., :-1, :]], -2)
            score = self._moved(before, self.u).log_prob(value).sum(-1)
        else:
            start = self._normal(first).log_prob(value[..., :1, :]).sum(-1)
            later = self._moved(value[..., :-1, :], self.u[..., 1:, :])
            score = start + later.log_prob(value[..., 1:, :]).sum(-1)
        return score.expand(torch.broadcast_shapes(score.shape, self._batch_shape))

    def log_prob_of_draw(self, value: Tensor) -> Tensor:
        """The score of the walk's own latest draw from its noise, as `DiagonalNormal.log_prob_of_draw` has it.

        The result has the value of `log_prob` and its total gradient. Any other value goes to `log_prob`.
        """
        drawn, noise, version = self._drawn
        own = value is drawn and value.requires_grad and version == version_of(value)
        return self._normal(noise).log_prob_at(noise).sum(-1) if own else self.log_prob(value)

    def _normal(self, loc: Tensor) -> DiagonalNormal:
        return DiagonalNormal(loc, torch.as_tensor(self.scale, dtype=loc.dtype, device=loc.device))

    def _moved(self, before: Tensor, u: Tensor) -> TorchDistribution:
        """p(s_t | s_{t-1}, u_t) of all steps at once."""
        if hasattr(self.step, "transition"):
            return self.step.transition(before, u, self.scale)
        return self._normal(self.step(before, u))

    def _follow(self, noise: Tensor, step: Any) -> Tensor:
        """s_1..s_T: each step's value plus its noise."""
        u = self.u.expand(*noise.shape[:-1], -1)
        first = self.first.expand(*noise.shape[:-2], -1)
        if self.goes_on:
            # a step in front that stands still
            u = torch.cat([torch.zeros_like(u[..., :1, :]), u], -2)
            noise = torch.cat([torch.zeros_like(noise[..., :1, :]), noise], -2)
        if step is self.step and hasattr(step, "path"):
            path = step.path(first, u, noise)
        else:
            s = first + noise[..., 0, :]
            states = [s]
            for action, e in zip(u.unbind(-2)[1:], noise.unbind(-2)[1:], strict=True):
                s = step(s, action) + e
                states.append(s)
            path = torch.stack(states, -2)
        return path[..., 1:, :] if self.goes_on else path
