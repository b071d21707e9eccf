"""The parts of `Watching` that say what learns from what: the gate from the guide's walks, or both from the bound."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from zoo.parts.distributions.expanded import expanded
from zoo.parts.walking.walk import Walk


class Gated:
    """s_t = s_{t-1} + h_t M u_t, h_t = sigmoid(logit g + told): the last entry of an action is what a frame told.

    Args:
        step: a `StoppingStep`.
        held: the gate is held constant.
    """

    def __init__(self, step: Any, held: bool) -> None:
        self.step, self.held = step, held

    def __call__(self, s: Tensor, given: Tensor) -> Tensor:
        u, told = given[..., :-1], given[..., -1]
        moved = self.step.move(u)
        share = (self.step.gate(s + moved, u, held=self.held) + told).sigmoid()
        return s + moved * share.unsqueeze(-1)


class Held:
    """A `StoppingStep` whose gate is held constant."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def transition(self, s: Tensor, u: Tensor, scale: Any) -> TorchDistribution:
        return self.step.transition(s, u, scale, held=True)


class Leading(TorchDistribution):
    """q, whose score has the gradient of log p but for the gate: log p - log q has that of the gate alone.

    Args:
        q: the guide's walk.
        p: the model's walk with its gate held constant.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.independent(constraints.real, 2)

    def __init__(self, q: Walk, p: Walk) -> None:
        self.q, self.p = q, p
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "Leading":
        return expanded(self, batch_shape)

    @property
    def likeliest(self) -> Tensor:
        return self.q.likeliest

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        return self.q.expand(self._batch_shape).rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        score = self.q.log_prob(value).detach()
        if torch.is_grad_enabled():
            taken = self.p.log_prob(value)
            score = score + (taken - taken.detach())
        return score
