"""Frames as the networks of sequence guides read them, and the order in which they read."""

from typing import Any

import torch
from torch import Tensor

from guides.guide import Guide
from zoo.parts.checks import check_offers, refuse_unobserved
from zoo.parts.once import once
from zoo.parts.trajectory import Carry, side_by_side
from zoo.parts.trajectory.density import inputs_of

_NEEDED = (
    "data_dim", "latent_dim", "state_dim", "control_dim", "encoding_dim",
    "transition", "advance", "states", "inputs", "completed", "check",
)  # fmt: skip


def size_of_frames(guide: Guide, entry_masks: bool) -> int:
    """Length of a frame that `read_frames` makes.

    Raises:
        ValueError: the model is no state space.
    """
    model = guide.model
    check_offers(type(guide).__name__, model, *_NEEDED, advice="sequence guides need a StateSpace")
    return model.encoding_dim + model.control_dim + (model.data_dim if entry_masks else 1)


def read_frames(
    guide: Guide, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None, entry_masks: bool
) -> tuple[tuple[Any, ...], Tensor, Tensor | None]:
    """The frames that a guide's networks read: the model's encoding of x_t, the controls u_t, and flags.

    x is `model.completed` where it is missing (zero, in most models), and its flag is 1 there: a missing frame is told
    from a silent one.

    Returns:
        `model.inputs`; the frames `(N, T, size)`; None or the frames observed, in whole or in part, `(N, T)`.

    Raises:
        ValueError: a mask of single entries without `entry_masks`; a sequence without an observed frame.
    """
    model, observed = guide.model, mask
    flags = x.new_zeros(*x.shape[:2], model.data_dim if entry_masks else 1)
    if mask is not None:
        flags, observed = _flagged(guide, flags, mask, entry_masks)
        # `once`, as in the model's own trajectory: both hand the same tensor to `inputs`, which then runs once
        x = once(model.completed)(x, u, mask, carry)
    inputs = inputs_of(model, x, u, carry)
    parts = [model.encoding(x, *inputs), flags]
    if u is not None and model.control_dim:
        parts.append(u)
    return inputs, side_by_side(*parts), observed


def _flagged(guide: Guide, flags: Tensor, mask: Tensor, entry_masks: bool) -> tuple[Tensor, Tensor]:
    """The flags, 1 where x is missing, and the frames observed, `(N, T)`."""
    by_entry = mask.ndim == flags.ndim
    # one flag for a frame cannot say which of its entries is missing
    if by_entry and not entry_masks:
        raise ValueError(
            f"mask: {type(guide).__name__} was built for whole frames, (N, T); entry_masks=True takes entries"
        )
    observed = mask.any(-1) if by_entry else mask
    refuse_unobserved(
        observed, ", so there is nothing to infer z from: leave it out, or draw from the prior by model.generate"
    )
    return flags.masked_fill(~(mask if by_entry else mask.unsqueeze(-1)), 1.0), observed


def in_reverse(values: Tensor, observed: Tensor | None) -> Tensor:
    """The frames of each sequence, from its last observed one back to its first, then the padding; its own inverse."""
    if observed is None:
        return values.flip(-2)
    # after a plain flip the network would read the padding first, and its state at the last frame would depend on it
    t = torch.arange(values.shape[-2], device=values.device)
    last = torch.where(observed, t, 0).amax(-1, keepdim=True)
    order = torch.where(t <= last, last - t, t)
    return values.gather(-2, order.unsqueeze(-1).expand_as(values))
