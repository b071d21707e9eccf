"""Sequences of unequal length with a gap, for tests of data."""

import torch

from zoo.data import Sequences


def ragged(**named) -> Sequences:
    """Three sequences of 2, 4 and 1 frames of two coordinates; frame 3, in the middle of the second, is missing."""
    frames = torch.arange(14.0).reshape(7, 2)
    frames[3] = float("nan")
    return Sequences(**{"frames": frames, "lengths": torch.tensor([2, 4, 1]), "columns": ("a", "b"), **named})
