"""Tensors with a time axis, the one left of the last, and states: tensors or NamedTuples of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def at_steps(values: tuple[Any, ...], T: int) -> list[tuple[Any, ...]]:
    """Values with a time axis as a list over time: entry t holds the value of each at step t."""
    # `unbind` once, not an index at each step: the gradient of an index is a copy of the whole, T of them in backward
    return list(zip(*(v.unbind(-2) for v in values), strict=True)) if values else [()] * T


def each(s: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A state with `change` applied to every tensor of it."""
    if s is None:
        return None
    return change(s) if isinstance(s, Tensor) else type(s)(*(each(part, change) for part in s))


def shift(z: Tensor, first: Tensor) -> Tensor:
    """(first, z_1, ..., z_{T-1}) along time: all that a Markov model knows at each step. `first`: `(..., size)`."""
    first = first.expand(*z.shape[:-2], z.shape[-1]).unsqueeze(-2)
    return torch.cat([first, z[..., :-1, :]], -2)


def last(v: Any) -> Any:
    """The last frame of a tensor, or of all parts of a state."""
    if v is None:
        return None
    if isinstance(v, Tensor):
        return v[..., -1, :]
    # a part that holds matrices has its time axis elsewhere, and says how its steps are taken apart
    return v.unbind(-2)[-1] if hasattr(v, "unbind") else type(v)(*map(last, v))


def side_by_side(*parts: Tensor) -> Tensor:
    """Joins tensors along the last axis; leading axes are broadcast."""
    # `torch.cat` does not broadcast: a state with particles meets features without
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)
