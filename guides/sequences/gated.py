"""The step of a guide that watches, with a gate's help."""

from typing import Any

from torch import Tensor


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
