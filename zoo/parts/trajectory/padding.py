"""Draws after the last observed frame of a sequence, where the transition takes the place of the conditional.

Nothing observed depends on these z, so p(z_t | s_t) is their exact posterior. log p - log q of such a frame is zero,
and padding adds no noise to a bound.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.parts.trajectory.time import at_steps


def beyond(model: Any, z: Tensor, s: Any, followed: Tensor) -> Tensor:
    """z_t; in sequences that have ended before t, a draw from the transition in its place, without a gradient.

    Args:
        model: a `StateSpace`.
        z: a draw from a conditional at step t.
        s: the state s_t.
        followed: True where the sequence has not ended, boolean `(...)`.
    """
    # without a gradient: log p - log q of padding is zero for every value, so its derivative would be pure rounding
    with torch.no_grad():
        drawn = model.transition(s).expand(z.shape[:-1]).sample()
    return torch.where(followed.unsqueeze(-1), z, drawn)


def everywhere(followed: Tensor) -> list[bool]:
    """For each step, True where the conditional holds in all sequences."""
    # one read from the device, not one at each step
    return followed.flatten(0, -2).all(0).tolist()


@torch.no_grad()
def padded(q: Any, z: Tensor, followed: Tensor) -> Tensor:
    """z, drawn in one call, with draws from the transition in the frames after each sequence's last observed one.

    Args:
        q: a `Trajectory` of the sequences.
        z: `(..., T, latent_dim)`.
        followed: True until the last observed frame, boolean `(..., T)`.
    """
    holds, inputs = everywhere(followed), at_steps(q.inputs, z.shape[-2])
    s, x, path = q.start(), q.x.unbind(-2), [*z.unbind(-2)]
    for t in range(len(path)):
        if not holds[t]:
            path[t] = beyond(q.model, path[t], s, followed[..., t])
        if t + 1 < len(path):
            s = q.model.advance(s, path[t], x[t], *inputs[t + 1])
    return torch.stack(path, -2)
