"""Pictures and feature maps as vectors, entry after entry in the order (height, width, channel).

That order is torch's `channels_last`: a convolution takes such a vector without a copy, and is two to three times as
fast on a CPU where channels are few. All other parts go on to see vectors.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.parts.checks import check_counts


class Maps(int):
    """The size of a picture, or of feature maps, as a vector: an `int` that knows height, width and channels.

    Args:
        height, width, channels: of the maps, in the order of a data set's `shape`: `Maps(*load("mnist").shape)`.

    Example:
        >>> from zoo.parts.networks import Maps
        >>> Maps(32, 32, 3) + 0, Maps(28, 28)
        (3072, Maps(28, 28, 1))
    """

    height: int
    width: int
    channels: int

    def __new__(cls, height: int, width: int, channels: int = 1) -> "Maps":
        check_counts(height=height, width=width, channels=channels)
        # attributes of an int: networks that know nothing of pictures go on to see a length
        maps = super().__new__(cls, height * width * channels)
        maps.height, maps.width, maps.channels = height, width, channels
        return maps

    def __getnewargs__(self) -> Any:
        return self.height, self.width, self.channels

    def __repr__(self) -> str:
        return f"Maps{self.__getnewargs__()}"


def as_maps(v: Tensor, maps: Maps) -> Tensor:
    """`(..., length)` as `(n, channels, height, width)`, in channels_last, all leading axes being one."""
    # a view whose strides are those of channels_last: the convolution takes it as it is
    return v.reshape(-1, maps.height, maps.width, maps.channels).permute(0, 3, 1, 2)


def as_vectors(h: Tensor, lead: torch.Size) -> Tensor:
    """`(n, channels, height, width)` as `(*lead, length)`: the inverse of `as_maps`."""
    return h.permute(0, 2, 3, 1).reshape(*lead, -1)
