"""Checks of sequences: x `(N, T, data_dim)`, controls u, and a mask of whole frames or of single entries."""

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.parts.checks.words import check_tensor


def check_sequences(
    x: Tensor,
    data_dim: int | None,
    like: Tensor | None,
    u: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """Checks types, shapes and dtypes of x, u and mask, and looks at no value: cheap enough for every training step.

    Args:
        x: `(N, T, data_dim)`. data_dim None: of any size.
        like: a parameter of the model; x and u must have its dtype. None: any dtype.
        u: controls, `(N, T, control_dim)`.
        mask: boolean, `(N, T)` for whole frames or `(N, T, data_dim)` for single entries.

    Raises:
        ValueError: a wrong shape, no sequence or frame, a wrong dtype; names the argument.
        TypeError: x, u or mask is not a tensor.
    """
    check_tensor(x)
    for name, other in (("u", u), ("mask", mask)):
        if other is not None:
            check_tensor(other, name)
    if x.ndim != 3 or (data_dim is not None and x.shape[-1] != data_dim):
        size = "data_dim" if data_dim is None else data_dim
        pictures = x.ndim > 3 and x.shape[2:].numel() == data_dim
        hint = "; x.flatten(2) makes vectors of pictures" if pictures else ""
        if x.ndim == 2 and data_dim == 1:
            hint = "; x[..., None] makes frames of one number"
        raise ValueError(f"x: expected shape (N, T, {size}), got {tuple(x.shape)}{hint}")
    if 0 in x.shape:
        raise ValueError(f"x: expected at least one sequence and one frame, got shape {tuple(x.shape)}")
    if u is not None and (u.ndim != 3 or u.shape[:2] != x.shape[:2]):
        raise ValueError(f"u: expected shape ({len(x)}, {x.shape[1]}, control_dim), got {tuple(u.shape)}; "
                         "u.expand(len(x), -1, -1) gives all sequences the same")  # fmt: skip
    for name, value in (("x", x), ("u", u)):
        if like is not None and value is not None and value.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype} like the model's parameters, got {value.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (x.shape, x.shape[:2])):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape[:2])} or {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def check_controls(u: Tensor | None, control_dim: int, who: str) -> None:
    """Checks that finite controls are given to a model that takes them, and to no other; their axes are those of x.

    Args:
        control_dim: size of u_t; 0: `who` takes none.
        who: name of the model, for the error.

    Raises:
        ValueError: u is missing, unasked for, or of another size; NaN or infinite, as `check_frames`.
    """
    if u is None and control_dim:
        raise ValueError(f"u: missing, {who} takes controls of size {control_dim}")
    if u is not None and not control_dim:
        raise ValueError(f"u: {who} takes no controls")
    if u is not None and u.shape[-1] != control_dim:
        raise ValueError(f"u: expected shape (N, T, {control_dim}), the controls of {who}, got {tuple(u.shape)}")
    if u is not None:
        check_frames(u, name="u")


def check_frames(x: Tensor, mask: Tensor | None = None, name: str = "x") -> None:
    """Checks that x is finite where it is observed; not under `pyro.enable_validation(False)`.

    Args:
        name: of the argument, as errors name it.

    Raises:
        ValueError: NaN or infinite; names the first sequence and frame.
    """
    # a sum is the usual case, in a tenth of the time of a look at the entries, which at every step of a model of videos
    # would be 10 % of it; entries and mask are looked at only where the sum is not finite, or overflows
    if dist.is_validation_enabled() and not bool(x.sum().isfinite()):
        refuse_unfinite(x, mask, name)


def refuse_unfinite(x: Tensor, mask: Tensor | None = None, name: str = "x", *, start: int = 0) -> None:
    """Refuses observed values of x that are not finite, whatever Pyro's validation says; `name` as in `check_frames`.

    Args:
        start: number of the first sequence, of a piece of all sequences.

    Raises:
        ValueError: NaN or infinite; names the first sequence and frame.
    """
    bad = ~torch.isfinite(x)
    if mask is not None:
        bad = bad & (mask if mask.ndim == x.ndim else mask.unsqueeze(-1))
    found = bad.any(-1).nonzero()
    if len(found):
        where = f"sequence {int(found[0, 0]) + start}, frame {int(found[0, 1])}, both counted from 0"
        # a mask speaks of x alone
        of, hint = (" observed", "; say which frames are missing with mask=") if name == "x" else ("", "")
        raise ValueError(f"{name}: NaN or infinite in {len(found)}{of} frames, the first of them {where}{hint}")


def check_gaps(mask: Tensor) -> None:
    """Checks that there is a mask, whose gaps are to be filled; its shape is checked with x."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a boolean torch.Tensor, False where x is missing, got {type(mask).__name__}")


def refuse_entries(mask: Tensor | None, who: str) -> None:
    """Refuses a mask of single entries, for a computation (`who`) that takes whole frames alone.

    Raises:
        ValueError: a mask `(N, T, data_dim)`.
    """
    if mask is not None and mask.ndim > 2:
        raise whole_frames_only(mask, who)


def whole_frames_only(mask: Tensor, who: str) -> ValueError:
    """The error of `refuse_entries`."""
    return ValueError(f"mask: {who} takes whole frames, shape (N, T), got {tuple(mask.shape)}")


def refuse_unobserved(mask: Tensor, hint: str) -> None:
    """Refuses sequences of which no frame is observed; `hint` ends the error.

    Raises:
        ValueError: names the first of them.
    """
    empty = (~mask.flatten(1).any(-1)).nonzero().flatten().tolist()
    if empty:
        # `zoo.infer.sites.look` replaces the number after the word "sequence" by the row of the caller's data
        raise ValueError(f"mask: no frame of sequence {empty[0]} is observed ({len(empty)} such){hint}")
