"""The check of a condition: classes `(N,)` or vectors `(N, condition_dim)`, beside the data x."""

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.parts.checks.words import check_tensor


def refuse_condition(whose: str, y: Tensor | None, name: str) -> None:
    """Refuses a condition of a program that takes none; None passes.

    Raises:
        ValueError: names program and argument.
    """
    if y is not None:
        raise ValueError(f"{name}: {whose} was built without a condition; {whose}(..., condition_dim=) takes one"
                         f"{_hint(y)}")  # fmt: skip


def check_condition(whose: str, y: Tensor | None, condition_dim: int, x: Tensor, name: str) -> None:
    """Checks that a condition holds a class or a vector for each data point.

    Args:
        whose: the program's name, for errors.
        condition_dim: number of classes, or length of a vector.
        x: the data, a row for each condition.
        name: of the argument.

    Raises:
        TypeError: y is not a tensor.
        ValueError: no condition; another shape or dtype; a class out of range, NaN or infinity, which are not looked
            for under `pyro.enable_validation(False)`.
    """
    num = len(x)
    expected = f"classes int64 ({num},) of 0 to {condition_dim - 1}, or vectors {x.dtype} ({num}, {condition_dim})"
    if y is None:
        raise ValueError(f"{name}: {whose} was built with condition_dim = {condition_dim}, and was given no condition; "
                         f"expected {expected}")  # fmt: skip
    check_tensor(y, name)
    classes = y.dtype == torch.int64 and y.shape == (len(x),)
    # one-hot vectors often come as whole numbers, as those of torch's and of pandas; bools are rather a mask
    numbers = y.dtype == x.dtype or not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not classes and not (numbers and y.shape == (len(x), condition_dim)):
        raise ValueError(f"{name}: expected {expected}, got {y.dtype} {tuple(y.shape)}{_hint(y)}")
    # a look at values waits for the device: a caller who has checked them once may switch validation off
    if not dist.is_validation_enabled() or not len(y):
        return
    wrong = (y < 0) | (y >= condition_dim) if classes else ~y.isfinite().all(-1)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        found = int(y[place]) if classes else "NaN or infinity"
        # `zoo.infer.sites.look` replaces the number after the word "datum" by the row of the caller's data
        raise ValueError(f"{name}: expected {expected}, got {found} at datum {place}, counted from 0 "
                         f"({int(wrong.sum())} such)")  # fmt: skip


def _hint(y: object) -> str:
    return "; a mask is given as mask=" if isinstance(y, Tensor) and y.dtype == torch.bool else ""
