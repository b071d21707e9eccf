"""What the networks of sequence guides see of a frame, and the order in which they see it."""

from typing import Any

import torch
from torch import Tensor

from guides.guide import Guide
from zoo.parts.trajectory import side_by_side

_NEEDED = ("data_dim", "latent_dim", "state_dim", "encoding_dim", "transition", "advance", "states", "inputs", "check")


def size_of_frames(guide: Guide, entry_masks: bool) -> int:
    """Length of a frame as `read_frames` gives it.

    Raises:
        ValueError: the model is no state space.
    """
    model, name = guide.model, type(guide).__name__
    for needed in _NEEDED:
        if not hasattr(model, needed):
            raise ValueError(f"{name}: {type(model).__name__} has no {needed}; sequence guides need a StateSpace")
    flags = model.data_dim if entry_masks else 1
    return model.encoding_dim + getattr(model, "control_dim", 0) + flags


def read_frames(
    guide: Guide, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Any, entry_masks: bool
) -> tuple[tuple[Any, ...], Tensor, Tensor | None]:
    """What the model makes of x and u outside every loop, the frames, and which of them are observed.

    A frame is the model's encoding of x_t, which is set to zero where it is missing, with u_t and a flag, 1 where x_t
    is missing: so a missing frame is told from a silent one.

    Returns:
        `model.inputs`; the frames `(N, T, size)`; None or the frames observed, in whole or in part, `(N, T)`.

    Raises:
        ValueError: a mask of single entries where none was announced; a sequence without an observed frame.
    """
    model, name = guide.model, type(guide).__name__
    flags, observed = x.new_zeros(*x.shape[:2], model.data_dim if entry_masks else 1), mask
    if mask is not None:
        if mask.ndim == x.ndim:
            if not entry_masks:
                raise ValueError(f"mask: {name} was built for whole frames, (N, T); entry_masks=True takes entries")
            observed = mask.any(-1)
        else:
            mask = mask.unsqueeze(-1)
        empty = (~observed.any(-1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"mask: no frame of sequence {empty[0]} is observed ({len(empty)} such), so there is nothing to infer "
                "z from: leave it out, or draw from the prior by model.generate"
            )
        x, flags = x.masked_fill(~mask, 0.0), flags.masked_fill(~mask, 1.0)
    inputs = model.inputs(x, u, *(() if carry is None else (carry,)))
    parts = [model.encoding(x, *inputs), flags]
    if getattr(model, "control_dim", 0):
        parts.append(u)
    return inputs, side_by_side(*parts), observed


def in_reverse(values: Tensor, observed: Tensor | None) -> Tensor:
    """The frames of each sequence, from its last observed one back to its first, then the padding; its own inverse."""
    if observed is None:
        return values.flip(-2)
    t = torch.arange(values.shape[-2], device=values.device)
    last = torch.where(observed, t, 0).amax(-1, keepdim=True)
    order = torch.where(t <= last, last - t, t)
    return values.gather(-2, order.unsqueeze(-1).expand_as(values))
