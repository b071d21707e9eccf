"""The step before the first frame of a chunk, and its check: sequences taken in chunks, one after the other."""

from typing import Any, NamedTuple

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from zoo.parts.checks import check_controls
from zoo.parts.trajectory.density import Trajectory
from zoo.parts.trajectory.time import at_steps, each, last


class Carry(NamedTuple):
    """The step before the first frame of a chunk: all that the chunk needs to know of the frames before it.

    Attributes:
        s: the state of that step, a tensor or a NamedTuple of tensors.
        z, x: `(..., latent_dim)` and `(..., data_dim)`; x as the model reads it, zero where it was not observed.
    """

    s: Any
    z: Tensor
    x: Tensor

    def detach(self) -> "Carry":
        """The carry without the graph that made it, as truncated back-propagation needs it."""
        return Carry(each(self.s, Tensor.detach), self.z.detach(), self.x.detach())


def check_carry(model: Any, x: Tensor, carry: Any) -> None:
    """Checks a carry against the model and the sequences x `(..., N, T, data_dim)` that it is to go before.

    Raises:
        TypeError: carry is not a `Carry`.
        ValueError: the model takes no carry; sizes of another model or batch; NaN or infinite values.
    """
    if not isinstance(carry, Carry):
        raise TypeError(f"carry: expected a Carry, from carry_on or given, got {type(carry).__name__}")
    if not model.carries:
        raise ValueError(f"carry: {type(model).__name__} takes whole sequences, not chunks")
    count = x.shape[-3]
    for name, value, size in (("z", carry.z, model.latent_dim), ("x", carry.x, model.data_dim)):
        if value.shape[-2:] != (count, size):
            raise ValueError(f"carry.{name}: expected shape ({count}, {size}) for {count} sequences, "
                             f"got {tuple(value.shape)}")  # fmt: skip
        if is_validation_enabled() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).flatten(0, -2).any(-1).nonzero()[0])
            raise ValueError(f"carry.{name}: NaN or infinite, first for sequence {bad}, counted from 0")
    # a state is of any form; its features are the one thing that a model says about it
    try:
        shape = tuple(model.features(carry.s).shape)
    except (AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"carry.s: {type(carry.s).__name__} is no state of a {type(model).__name__}") from error
    # a state that no sequence has changed yet, such as a learned start, has no axis of the batch
    if shape[-1] != model.state_dim or shape[-2:-1] not in ((), (1,), (count,)):
        raise ValueError(f"carry.s: expected the states of {count} sequences, of size {model.state_dim}, got "
                         f"shape {shape}")  # fmt: skip


@torch.no_grad()
def carry_on(model: Any, z: Tensor, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None) -> Carry:
    """See `StateSpace.carry_on`."""
    if z.shape[-3:] != (*x.shape[-3:-1], model.latent_dim):
        raise ValueError(f"z: expected shape (..., {x.shape[-3]}, {x.shape[-2]}, {model.latent_dim}) as x has it, "
                         f"got {tuple(z.shape)}")  # fmt: skip
    # x may have particles in front, so `check_sequences`, which takes three axes, does not serve
    if mask is not None and mask.shape[:2] != x.shape[-3:-1]:
        raise ValueError(f"mask: expected {tuple(x.shape[-3:-1])} as x has it, got {tuple(mask.shape)}")
    check_controls(u, model.control_dim, type(model).__name__)
    if carry is not None:
        check_carry(model, x, carry)
    chunk = Trajectory(model, model.transition, x, u, mask, carry=carry)
    # detached: a graph through all chunks would grow with the song
    return Carry(last(chunk.states(z)), last(z), last(chunk.x)).detach()


def given(model: Any, x: Tensor, u: Tensor | None) -> Carry:
    """See `StateSpace.given`."""
    if u is None and model.control_dim:
        u = x.new_zeros(*x.shape[:-1], model.control_dim)
    check_controls(u, model.control_dim, type(model).__name__)
    frame = x.unsqueeze(-2)
    start = model.start(frame, *at_steps(model.inputs(frame, None if u is None else u.unsqueeze(-2)), 1)[0])
    z = getattr(model, "z_0", x.new_zeros(model.latent_dim)).expand(*x.shape[:-1], model.latent_dim)
    return Carry(start, z, x)
