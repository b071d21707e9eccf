"""Draws from a `PixelCNN`, pixel by pixel, that compute every feature once.

A plain draw runs the whole network for each pixel. But features of the vertical stack depend on the rows above alone:
a row of them is computed when the row above is known, from the last few rows. Features of the horizontal stack at a
pixel need the last few to its left. So a pixel costs one vector times a matrix for each layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.parts.distributions.autoregressive import draw_level, scaled


def draw_pixels(network: Any, uniform: Tensor, h: Tensor | None) -> Tensor:
    """Pictures `(n, data_dim)` of levels; arguments as of `AutoregressiveNetwork.draw`."""
    (height, width), n = network.shape, len(uniform)
    x = uniform.new_empty(n, height, width)
    uniform, places = uniform.view(n, height, width), network.of_places(h).unflatten(1, network.shape)
    above, row = Above(network, n, h), Row(network)
    for i in range(height):
        told = above.of_next_row()
        pixels = row.begin(n, told)
        for j in range(width):
            level = draw_level(row.features(j) + places[:, i, j], uniform[:, i, j])
            x[:, i, j] = level
            pixels[:, j] = scaled(level, network.levels)
        above.add(pixels)
    return x.view(n, -1)


class Above:
    """The vertical stack: of each layer the last rows that a convolution will read.

    Args:
        network: the `PixelCNN`.
        n: number of pictures.
        h: features `(n, in_features)`, or None.
    """

    def __init__(self, network: Any, n: int, h: Tensor | None) -> None:
        self.layers, (_, width) = network.layers, network.shape
        self.told = [layer.of_condition(h) for layer in self.layers]
        self.windows = []
        for layer in self.layers:
            _, channels, rows, columns = layer.vertical.weight.shape
            self.windows.append(network.like.new_zeros(n, channels, rows, width + columns - 1))

    def add(self, pixels: Tensor) -> None:
        """Takes a row of pixels `(n, width)` in [-1, 1]."""
        self._shift(0, pixels[:, None, None])

    def of_next_row(self) -> list[Tensor]:
        """For each layer all that enters the gates of the horizontal stack but its own, `(width, n, 2 channels)`."""
        found = []
        for place, (layer, (of_v, of_w)) in enumerate(zip(self.layers, self.told, strict=True)):
            pre = layer.vertical(self.windows[place]) + of_v
            first, second = pre.chunk(2, 1)
            v = first.tanh() * second.sigmoid()
            entering = layer.down(v) + of_w + layer.horizontal.bias[:, None, None]
            found.append(entering.squeeze(2).permute(2, 0, 1).contiguous())
            if place + 1 < len(self.layers):
                self._shift(place + 1, v)
        return found

    def _shift(self, place: int, row: Tensor) -> None:
        """Lets the oldest row of a window go, and puts the new one last."""
        reach = self.layers[place].reach
        self.windows[place] = torch.cat([self.windows[place][:, :, 1:], F.pad(row, (reach, reach))], 2)


class Row:
    """The horizontal stack along one row.

    Args:
        network: the `PixelCNN`.
    """

    def __init__(self, network: Any) -> None:
        self.layers, (_, self.width) = network.layers, network.shape
        # as matrices `(columns * channels, 2 channels)`, the columns from left to right
        self.weights = [_matrix(layer.horizontal.weight) for layer in self.layers]
        self.maps = [(layer.across.weight.flatten(1), layer.across.bias) for layer in self.layers]
        self.heads = [(part.weight.flatten(1), part.bias) for part in (network.hidden, network.head)]

    def begin(self, n: int, told: list[Tensor]) -> Tensor:
        """Starts a row; gives the tensor `(n, width)` of its pixels in [-1, 1], which the caller fills."""
        self.told, self.seen = told, []
        for layer in self.layers:
            channels = layer.horizontal.weight.shape[1]
            self.seen.append(told[0].new_zeros(n, self.width + layer.reach, channels))
        return self.seen[0][:, self.layers[0].reach :, 0]

    def features(self, j: int) -> Tensor:
        """The network's output at column j, `(n, outputs)`, without the part of the place."""
        w: Any = None
        for place, layer in enumerate(self.layers):
            end = j + layer.reach
            if place:
                self.seen[place][:, end] = w
            columns = self.seen[place][:, j : end if layer.first else end + 1].flatten(1)
            first, second = torch.addmm(self.told[place][j], columns, self.weights[place]).chunk(2, 1)
            out = F.linear(first.tanh() * second.sigmoid(), *self.maps[place])
            w = out if layer.first else w + out
        for weight, bias in self.heads:
            w = F.linear(w.relu(), weight, bias)
        return w


def _matrix(weight: Tensor) -> Tensor:
    return weight.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous()
