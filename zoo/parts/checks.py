"""Checks of data at a model's door: an error here names the argument, what was expected and what came."""

from collections.abc import Sequence
from operator import index

import pyro.distributions as dist
import torch
from torch import Tensor, nn


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first items in words, and the number of the others: "3, 17 and 4 more"."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def check_shape(x: Tensor, data_dim: int, like: Tensor | None, mask: Tensor | None = None) -> None:
    """Refuses what can be told without looking at a value: cheap enough for every training step.

    Args:
        x: data, `(..., data_dim)`.
        like: a parameter of the model; x must have its dtype. None: of a model without any.
        mask: boolean, the shape of x, True where observed.

    Raises:
        ValueError: wrong last dimension, empty, wrong dtype, wrong mask.
        TypeError: x is not a tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}; torch.as_tensor converts it")
    if x.ndim == 0 or x.shape[-1] != data_dim:
        raise ValueError(f"x: expected shape (..., {data_dim}), got {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"x: expected at least one row, got shape {tuple(x.shape)}")
    if like is not None and x.dtype != like.dtype:
        raise ValueError(f"x: expected {like.dtype} like the model's parameters, got {x.dtype}; convert one of the two")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def check_rows(x: Tensor, data_dim: int, like: Tensor | None, mask: Tensor | None = None) -> None:
    """`check_shape`, for programs whose batch is the one axis in front: refuses a single row without it.

    Raises:
        ValueError: as `check_shape`; x is not `(N, data_dim)`.
        TypeError: x is not a tensor.
    """
    check_shape(x, data_dim, like, mask)
    if x.ndim != 2:
        hint = "; x.unsqueeze(0) makes a batch of one row" if x.ndim == 1 else ""
        raise ValueError(f"x: expected shape (N, {data_dim}), got {tuple(x.shape)}{hint}")


def parameter_of(module: nn.Module) -> Tensor | None:
    """The first parameter of a module, for its dtype; None without any. (`parameters()` takes ten times as long.)"""
    for parameter in module.__dict__["_parameters"].values():
        if parameter is not None:
            return parameter
    for part in module.__dict__["_modules"].values():
        if part is not None and (found := parameter_of(part)) is not None:
            return found
    return None


def widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """The widths of hidden layers as integers.

    Raises:
        TypeError: not a sequence of whole numbers.
        ValueError: a width below 1.
    """
    try:
        found = tuple(index(width) for width in hidden)
    except TypeError as error:
        raise TypeError(f"hidden: expected a tuple of layer widths such as (100,), got {hidden!r}") from error
    if any(width < 1 for width in found):
        raise ValueError(f"hidden: expected widths >= 1, got {found}")
    return found


def check_data(x: Tensor, data_dim: int, like: Tensor, mask: Tensor | None = None) -> Tensor:
    """x, checked by `check_shape` and for values that are not finite, with zeros where the mask says missing.

    The zeros are needed: a masked density of NaN is zero, but its gradient is NaN. Values are not looked at
    under `pyro.enable_validation(False)`, since that waits for the device.

    Raises:
        ValueError: NaN or infinite observed entries; names the rows.
    """
    check_shape(x, data_dim, like, mask)
    if mask is not None:
        x = x.masked_fill(~mask, 0.0)
    if dist.is_validation_enabled():
        bad = ~torch.isfinite(x.detach()).all(-1)
        if bad.any():
            rows = bad.flatten().nonzero().flatten().tolist()
            shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            hint = "; say which entries are missing with mask=~x.isnan()" if mask is None else ""
            raise ValueError(f"x: NaN or infinite values in {len(rows)} of {bad.numel()} rows (rows {shown}){hint}")
    return x


def check_sequences(
    x: Tensor, data_dim: int, like: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> None:
    """Refuses what can be told without looking at a value.

    Raises:
        ValueError: x is not `(N, T, data_dim)`, u not `(N, T, ...)`, mask not boolean `(N, T)` or of the shape of x; x
            or u has not the dtype of `like`, a parameter of the model.
        TypeError: x, u or mask is not a tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}; torch.as_tensor converts it")
    for name, other in (("u", u), ("mask", mask)):
        if other is not None and not isinstance(other, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(other).__name__}")
    if x.ndim != 3 or x.shape[-1] != data_dim:
        raise ValueError(f"x: expected shape (N, T, {data_dim}), got {tuple(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x: expected at least one sequence and one frame, got shape {tuple(x.shape)}")
    if u is not None and (u.ndim != 3 or u.shape[:2] != x.shape[:2]):
        raise ValueError(f"u: expected shape ({len(x)}, {x.shape[1]}, control_dim), got {tuple(u.shape)}; "
                         "u.expand(len(x), -1, -1) gives all sequences the same")  # fmt: skip
    for name, value in (("x", x), ("u", u)):
        if value is not None and value.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype} like the model's parameters, got {value.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (x.shape, x.shape[:2])):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape[:2])} or {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def check_frames(x: Tensor, mask: Tensor | None = None) -> None:
    """Refuses NaN and infinite values where x is observed; not looked at under `pyro.enable_validation(False)`.

    Raises:
        ValueError: names the first sequence and frame.
    """
    if not dist.is_validation_enabled() or bool(torch.isfinite(x).all()):
        return
    bad = ~torch.isfinite(x)
    if mask is not None:
        bad = bad & (mask if mask.ndim == x.ndim else mask.unsqueeze(-1))
    found = bad.any(-1).nonzero()
    if len(found):
        where = f"sequence {int(found[0, 0])}, frame {int(found[0, 1])}, both counted from 0"
        raise ValueError(f"x: NaN or infinite in {len(found)} observed frames, the first of them {where}; "
                         "say which frames are missing with mask=")  # fmt: skip
