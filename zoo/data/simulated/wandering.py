"""Agents that wander by actions, each kept for some steps, and the sequences of what they see on their way."""

import numpy as np
import torch

from zoo.data.sequences import Sequences

Array = np.ndarray


class Wandering:
    """Draws the actions of many agents, step by step; the last action is to stay, which nothing stops.

    A new action is one that nothing would stop at its first step. It is kept for 1 + Poisson(repeat) steps.

    Args:
        num, T: agents and steps.
        chances: probability of each action, before those that would be stopped are left out.
        repeat: mean number of further steps of an action.
        bumps: an action is kept where something stops it; without, a new one is drawn there.
        random: the source of all randomness.
    """

    def __init__(
        self,
        num: int,
        T: int,
        chances: tuple[float, ...],
        repeat: float,
        bumps: bool,
        random: np.random.RandomState,
    ) -> None:
        self.chances, self.bumps = np.array(chances), bumps
        # All at once: a call for each step would take as long as the step.
        self.uniform, self.lasting = random.random_sample((T, num, 1)), 1 + random.poisson(repeat, (T, num))
        self.agents, self.action, self.left = np.arange(num), np.full(num, len(chances) - 1), np.zeros(num, int)

    def action_of(self, t: int, free: Array) -> Array:
        """The action of each agent in step t, `(num,)`.

        Args:
            free: bool `(num, actions)`, False where something would stop the action.
        """
        over = self.left == 0
        if not self.bumps:
            over |= ~free[self.agents, self.action]
        # The cell of a uniform number among those of the free actions; a stopped one has a cell of width 0. Without
        # the last edge: rounding up to it would give an action that is none.
        edges = (self.chances * free).cumsum(1)
        drawn = (self.uniform[t] * edges[:, -1:] >= edges[:, :-1]).sum(1)
        self.action = np.where(over, drawn, self.action)
        self.left = np.where(over, self.lasting[t], self.left) - 1
        return self.action


def sequences_seen(
    frames: Array,
    actions: Array,
    truth: Array,
    *,
    num_actions: int,
    noise: float,
    random: np.random.RandomState,
    labels: Array | None = None,
) -> Sequences:
    """The `Sequences` of agents in a world of colours.

    Args:
        frames: uint8 `(num, T, height, width, channels)`.
        actions: whole numbers, `(num, T)`; controls are one-hot.
        truth: states, `(num, T, any)`.
        noise: standard deviation of pixel noise where levels are in [0, 1]. Frames with noise are floats: bytes would
            cut it off at black and white.
        random: drawn from for the noise alone, so that the same seed without noise gives the same walks.
        labels: whole numbers, `(num,)`.
    """
    num, T, height, width, channels = frames.shape
    flat = frames.reshape(num * T, -1)
    if noise:
        flat = flat / np.float32(255) + np.float32(noise) * random.standard_normal(flat.shape).astype(np.float32)
    names = ("red", "green", "blue") if channels == 3 else tuple(f"channel {i}" for i in range(channels))
    return Sequences(
        torch.from_numpy(flat),
        torch.full((num,), T),
        tuple(f"row {i}, column {j}, {name}" for i in range(height) for j in range(width) for name in names),
        num_levels=None if noise else 256,
        truth=torch.from_numpy(truth).float().flatten(0, 1),
        controls=torch.from_numpy(np.eye(num_actions, dtype=np.float32)[actions]).flatten(0, 1),
        labels=None if labels is None else torch.from_numpy(labels),
    )
