"""The conditional of a sequence guide, at one step or at all of them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from guides.families import Family
from zoo.parts.trajectory import StateSpace


@dataclass(frozen=True, eq=False)
class Conditional:
    """q(z_t | s_t, c_t) = family(z_t; p(z_t | s_t), f(s_t, c_t)), called with s_t and c_t of one step or of all."""

    # the parts are looked up once for all T steps: an attribute of a PyroModule goes through its parameter store
    model: StateSpace
    family: Family
    of_state: nn.Module | None
    rest: nn.Module | None

    def __call__(self, s: Any, context: Tensor) -> Any:
        prior = self.model.transition(s) if self.family.uses_prior else None
        # the guide has multiplied c_t by its matrix already, for all frames at once
        total = context if self.of_state is None else context + self.of_state(self.model.features(s))
        return self.family(prior, total if self.rest is None else self.rest(total))
