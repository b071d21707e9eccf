"""A number of the pair that moves with the steps of a training, such as a temperature."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.infer.objectives.objective import Objective, Part
from zoo.infer.per_datum import Terms


class Scheduled(Objective):
    """Another objective, with a buffer of the pair that a schedule fills before each gradient evaluation.

    The value is that of the other objective at the buffer's latest filling. Several buffers take one `Scheduled` around
    another. Around `Tempered`, not inside it.

    References: Jang, Gu and Poole 2017, for a temperature that falls.

    Args:
        objective: any objective of the zoo, `Tempered` included.
        buffer: a tensor among the buffers of model or guide, of real numbers: `guide.family.temperature`. Move the pair
            to its device and dtype first, since `.to()` puts new buffers in the place of the old ones.
        schedule: function of the step -> a finite number. The step counts gradient evaluations, from 0; `fit` saves and
            restores it.

    Attributes:
        step: the number of gradient evaluations so far.
        moved: the buffer.

    Raises:
        TypeError: `objective` is none of the zoo, `buffer` no tensor of real numbers, or `schedule` no function.
        ValueError: at a gradient evaluation: the pair does not hold the buffer, or the schedule's number is not finite.

    Example:
        >>> import math, torch, guides
        >>> from functools import partial
        >>> from zoo import VAE
        >>> from zoo.infer import ELBO, Scheduled
        >>> from zoo.parts.conditionals import CodePrior
        >>> model = VAE(784, 200, prior=CodePrior(20, 10))
        >>> guide = guides.Amortized(model, family=partial(guides.GumbelSoftmax, categories=10))
        >>> temperature = guide.family.temperature
        >>> falling = Scheduled(ELBO(analytic_kl=True), temperature, lambda step: max(0.5, math.exp(-1e-4 * step)))
        >>> falling.step = 20_000
        >>> _ = falling(model, guide)(torch.zeros(3, 784))
        >>> temperature
        tensor(0.5000)
    """

    def __init__(self, objective: Objective, buffer: Tensor, schedule: Callable[[int], float]) -> None:
        if not isinstance(objective, Objective):
            name = type(objective).__name__
            raise TypeError(f"Scheduled: expected an objective of the zoo, such as ELBO(), got {name}")
        if not isinstance(buffer, Tensor) or isinstance(buffer, nn.Parameter) or not buffer.is_floating_point():
            raise TypeError(
                "Scheduled: buffer is a tensor of real numbers among the buffers of the pair, such as "
                f"guide.family.temperature, got {type(buffer).__name__}"
                + (f" of {buffer.dtype}" if isinstance(buffer, Tensor) else "")
            )
        if not callable(schedule):
            raise TypeError(f"Scheduled: schedule is a function of the step, got {schedule!r}")
        super().__init__(objective.num_particles)
        # not under the argument's name: a resumed training compares those, and the buffer has moved by then
        self.objective, self.moved, self.schedule = objective, buffer, schedule
        self._demand_as(objective)
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        # objectives inside count the same evaluations, and `fit` restores the outermost step alone
        if hasattr(self.objective, "step"):
            self.objective.step = step

    @property
    def untempered(self) -> Objective:
        return self.objective.untempered

    @property
    def kl_weight_now(self) -> float | dict[str, float] | None:
        return self.objective.kl_weight_now

    def advance(self) -> None:
        number = float(self.schedule(self._step))
        if not math.isfinite(number):
            raise ValueError(f"Scheduled: the schedule gives {number} at step {self._step}, expected a finite number")
        # in place: model and guide, and a captured graph, read this very tensor
        with torch.no_grad():
            self.moved.fill_(number)
        self._step += 1
        self.objective.advance()

    def parts(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
        return self.objective.parts(guide, args, kwargs)

    def added(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        return self.objective.added(guide, args, kwargs)

    def loss_of_parts(self, model: Callable, guide: Callable, parts: list[Part], *, registered: bool = False) -> Tensor:
        if torch.is_grad_enabled():
            self._refuse_strange(model, guide)
        return self.objective.loss_of_parts(model, guide, parts, registered=registered)

    def _refuse_strange(self, model: Callable, guide: Callable) -> None:
        """Refuses a pair of modules that does not hold the buffer, whose schedule would move nothing."""
        parts = [part for part in (model, guide) if isinstance(part, nn.Module)]
        # a function may hold the module that holds the buffer
        if len(parts) == 2 and not any(owned is self.moved for part in parts for owned in part.buffers()):
            raise ValueError(
                "Scheduled: the buffer is in neither model nor guide, and its schedule would move nothing. `.to()` and "
                "`.double()` put new buffers in place of the old ones: move the pair first, then make the objective"
            )

    def bound(self, terms: Terms) -> Tensor:
        return self.objective.bound(terms)
