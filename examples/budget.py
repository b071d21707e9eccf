"""A training's budget in CPU time, so that systems with dear and with cheap steps are given the same."""

import math
import time
from typing import Any

import torch


class Budget:
    """A clock of training, a callback of `fit`: ends it after some CPU minutes, and gives schedules over that time.

    Validation does not count. The clock is part of a checkpoint, so that a resumed training goes on
    counting, and what a kill has lost is not in it.

    Args:
        minutes: CPU minutes of training.

    Attributes:
        share: of the budget that is spent, 0 to 1.
        steps: number of steps.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes, self.seconds, self.steps, self.since = minutes, 0.0, 0, time.process_time()

    @property
    def share(self) -> float:
        return min(1.0, self.seconds / (60 * self.minutes))

    def state_dict(self) -> dict[str, Any]:
        """Seconds and steps so far."""
        return {"seconds": self.seconds, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a result of `state_dict`."""
        self.seconds, self.steps = state["seconds"], state["steps"]

    def started(self, now: Any = None) -> bool:
        """Starts the clock, or goes on after something that does not count; True where nothing is left."""
        self.since = time.process_time()
        return self.share >= 1

    def stepped(self, now: Any = None) -> bool:
        """Counts the time of a step."""
        before, self.since = self.since, time.process_time()
        self.seconds, self.steps = self.seconds + self.since - before, self.steps + 1
        return self.share >= 1

    def epoch_ended(self, now: Any) -> bool:
        """Leaves out the validation since the last step."""
        return self.started()

    def rise(self, step: int) -> float:
        """A KL weight that rises from nearly 0 to 1 over the first fifth."""
        return min(1.0, 0.01 + 5 * self.share)

    def fall(self, step: int) -> float:
        """Half a cosine from 1 to a hundredth, by which the learning rate is multiplied."""
        return 0.01 + 0.495 * (1 + math.cos(math.pi * self.share))

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rate over the budget, as `fit` takes it."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.fall)
