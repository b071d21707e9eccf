"""Checks of the shape of data that are vectors: x `(..., data_dim)`, and a mask of its entries."""

import torch
from torch import Tensor, nn

from zoo.parts.checks.words import check_tensor


def check_shape(x: Tensor, data_dim: int, like: Tensor | None, mask: Tensor | None = None) -> None:
    """Checks type, shape and dtype; looks at no value, so it is cheap enough for every training step.

    Args:
        x: data, `(..., data_dim)`.
        like: a parameter of the model; x must have its dtype. None: the model has no parameter.
        mask: boolean, the shape of x, True where observed.

    Raises:
        ValueError: wrong last dimension, no entry, wrong dtype, wrong mask.
        TypeError: x is not a tensor.
    """
    check_tensor(x)
    if x.ndim == 0 or x.shape[-1] != data_dim:
        hint = "; x.flatten(1) makes vectors of pictures" if x.ndim > 2 and x[:1].numel() == data_dim else ""
        if x.ndim == 1 and data_dim == 1:
            hint = "; x[:, None] makes rows of one number"
        raise ValueError(f"x: expected shape (..., {data_dim}), got {tuple(x.shape)}{hint}")
    if x.numel() == 0:
        raise ValueError(f"x: expected at least one row, got shape {tuple(x.shape)}")
    # torch's own error comes from inside a linear layer and names neither x nor the parameters
    if like is not None and x.dtype != like.dtype:
        raise ValueError(f"x: expected {like.dtype} like the model's parameters, got {x.dtype}; convert one of the two")
    if mask is not None:
        check_tensor(mask, "mask")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape):
        # where a second argument is meant for another place
        hint = "" if mask.dtype == torch.bool else "; a label or a condition goes by its keyword, y= or c="
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}{hint}"
        )


def check_rows(x: Tensor, data_dim: int, like: Tensor | None, mask: Tensor | None = None) -> None:
    """Checks as `check_shape` does, and that x has exactly one batch axis.

    Raises:
        ValueError: as `check_shape`; x is not `(N, data_dim)`.
        TypeError: x is not a tensor.
    """
    check_shape(x, data_dim, like, mask)
    if x.ndim != 2:
        hint = "; x.unsqueeze(0) makes a batch of one row" if x.ndim == 1 else ""
        raise ValueError(f"x: expected shape (N, {data_dim}), got {tuple(x.shape)}{hint}")


def parameter_of(module: nn.Module) -> Tensor | None:
    """The first parameter of a module, for its dtype; None where the module has none."""
    # `next(module.parameters())` takes ten times as long: it makes names of all it passes, and remembers duplicates
    for parameter in module.__dict__["_parameters"].values():
        if parameter is not None:
            return parameter
    for part in module.__dict__["_modules"].values():
        if part is not None and (found := parameter_of(part)) is not None:
            return found
    return None
