"""Checks of data at a model's door: an error here names the argument, what was expected and what came."""

import pyro.distributions as dist
import torch
from torch import Tensor


def check_shape(x: Tensor, data_dim: int, like: Tensor, mask: Tensor | None = None) -> None:
    """Refuses what can be told without looking at a value: cheap enough for every training step.

    Args:
        x: data, `(..., data_dim)`.
        like: a parameter of the model; x must have its dtype.
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
    if x.dtype != like.dtype:
        raise ValueError(f"x: expected {like.dtype} like the model's parameters, got {x.dtype}; convert one of the two")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


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
