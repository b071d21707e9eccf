"""The check of labels: y `(N,)`, the class of each data point."""

import pyro.distributions as dist
import torch
from torch import Tensor


def check_labels(y: Tensor | None, num: int, num_classes: int) -> None:
    """Checks that y holds a class for each data point; None, no labels, passes.

    Args:
        num: number of data points N.
        num_classes: C; classes count from 0.

    Raises:
        TypeError: y is not a tensor.
        ValueError: y is not int64 or not `(N,)`; a class outside 0..C - 1, which is not looked for under
            `pyro.enable_validation(False)`.
    """
    if y is None:
        return
    classes = f"classes 0 to {num_classes - 1}"
    if not isinstance(y, Tensor):
        raise TypeError(f"y: expected a torch.Tensor of {classes}, got {type(y).__name__}; torch.as_tensor converts it")
    if y.dtype != torch.int64 or y.shape != (num,):
        one_hot = y.ndim == 2 and y.shape[-1] == num_classes
        hint = "; y.argmax(-1) makes classes of one-hot rows" if one_hot else ""
        if y.dtype == torch.bool:
            hint = "; a mask is given as mask="
        raise ValueError(f"y: expected torch.int64 of shape ({num},), one of the {classes} for each row of x, got "
                         f"{y.dtype} of shape {tuple(y.shape)}{hint}")  # fmt: skip
    # a look at values waits for the device: a caller who has checked the labels once may switch validation off
    if dist.is_validation_enabled() and num and not (y.min().item() >= 0 and y.max().item() < num_classes):
        wrong = ((y < 0) | (y >= num_classes)).nonzero().flatten()
        unknown = "; data without a label go without y, in mixed batches by SemiSupervised" if (y == -1).any() else ""
        # `zoo.infer.sites.look` replaces the number after the word "datum" by the row of the caller's data
        raise ValueError(f"y: expected {classes}, got {int(y[wrong[0]])} at datum {int(wrong[0])}, counted from 0 "
                         f"({len(wrong)} such){unknown}")  # fmt: skip
