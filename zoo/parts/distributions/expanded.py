"""The expansion of distributions whose parameters stay as they are."""

from typing import Any

import torch
from torch import Size


def expanded(distribution: Any, batch_shape: Size) -> Any:
    """The distribution with another batch shape, its attributes shared; itself if that is its own shape.

    For distributions over whole sequences: recursions run once for the parameters and data that there are, and a copy
    of these for every entry of the new batch would be a recursion of its own.
    """
    # the usual case first: broadcasting shapes takes as long as a small operation on tensors
    if tuple(batch_shape) == distribution._batch_shape:
        return distribution
    batch_shape = torch.broadcast_shapes(Size(batch_shape), distribution._batch_shape)
    if batch_shape == distribution._batch_shape:
        return distribution
    new = object.__new__(type(distribution))
    new.__dict__.update(distribution.__dict__)
    new._batch_shape = batch_shape
    return new
