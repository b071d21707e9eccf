"""Poses: states (x, y, heading), the heading an angle in radians."""

import torch
from torch import Tensor


def check_poses(s: Tensor, at: Tensor) -> None:
    """Refuses states that are no poses, among those of a memory, s, and those that are asked for, at.

    Raises:
        ValueError: the last axis is not of length 3; names the states.
    """
    for name, states in (("s", s), ("at", at)):
        if states.shape[-1:] != (3,):
            raise ValueError(f"{name}: expected poses (x, y, heading), shape (..., 3), got {tuple(states.shape)}")


def on_circle(s: Tensor) -> Tensor:
    """(x, y, cos heading, sin heading): a turn more or less makes no difference."""
    return torch.cat([s[..., :2], s[..., 2:].cos(), s[..., 2:].sin()], -1)


def seen_from(at: Tensor, s: Tensor) -> Tensor:
    """Poses s in the coordinates of an agent at `at`, which looks along the first axis, `on_circle`."""
    cos, sin = at[..., 2].cos(), at[..., 2].sin()
    x, y, turn = (s - at).unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, turn.cos(), turn.sin()], -1)
