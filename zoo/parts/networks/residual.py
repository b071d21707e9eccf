"""Residual networks of feature maps as stages, and the layers by which vectors and pictures enter them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as with_weight_norm

from zoo.parts.networks.maps import Maps, as_maps, as_vectors
from zoo.parts.networks.mlp import start_kaiming
from zoo.parts.recorded import Recorded


class ToMaps(Recorded, nn.Module):
    """One linear layer from a vector or maps `(..., length)` to maps of another resolution, `(..., length)` too.

    Larger maps come by a convolution with strides. Smaller ones are spread out: a convolution makes all channels of
    the f x f entries that one becomes (sub-pixel convolution). A plain vector comes by a matrix.

    References: Shi et al. 2016 (sub-pixel convolution).

    Args:
        in_features: length of the input, a `Maps` where it is a picture.
        maps: of the output.
        kernel: odd width of the convolution; None: 5 for pictures of three channels or fewer, else 3 for a change of
            resolution downwards (or the stride, if that is more), else 1.

    Raises:
        TypeError: `maps` is no `Maps`.
        ValueError: the resolutions are no multiples of each other, alike in height and width.
    """

    def __init__(self, in_features: int, maps: Maps, *, kernel: int | None = None) -> None:
        super().__init__()
        if not isinstance(maps, Maps):
            raise TypeError(f"maps: expected Maps(height, width, channels), got {maps!r}")
        self.here, self.maps, self.factor = in_features, maps, 1
        if not isinstance(in_features, Maps):
            self.layer: nn.Module = nn.Linear(in_features, maps)
            return
        stride, self.factor = _steps(in_features, maps)
        if kernel is None:
            kernel = 5 if in_features.channels <= 3 else max(3, stride | 1) if stride > 1 else 1
        self.layer = nn.Conv2d(in_features.channels, maps.channels * self.factor**2, kernel, stride, kernel // 2)

    def forward(self, v: Tensor) -> Tensor:
        if not isinstance(self.here, Maps):
            return self.layer(v)
        h = self.layer(as_maps(v, self.here))
        return as_vectors(F.pixel_shuffle(h, self.factor) if self.factor > 1 else h, v.shape[:-1])


def _steps(here: Maps, there: Maps) -> tuple[int, int]:
    """The stride down, or the factor up, from one resolution to another; the other of the two is 1."""
    for larger, smaller, down in ((here, there, True), (there, here, False)):
        step = larger.height // smaller.height
        if step and (larger.height, larger.width) == (step * smaller.height, step * smaller.width):
            return (step, 1) if down else (1, step)
    raise ValueError(f"maps: {here} and {there} do not meet: expected one resolution to be a whole multiple of the "
                     "other, the same in height and width")  # fmt: skip


class ToPicture(Recorded, nn.Module):
    """W * h + b: a picture from feature maps, by a convolution; b has an entry for each pixel and channel.

    Likelihoods of pictures take it as their `layer`: `partial(Bernoulli, layer=ToPicture)`.

    Args:
        in_features: `Maps` of h.
        data_dim: `Maps` of the picture.
        kernel: odd width of the convolution.

    Raises:
        TypeError, ValueError: as of `ToMaps`; h is a plain vector.
    """

    def __init__(self, in_features: int, data_dim: int, *, kernel: int = 3) -> None:
        super().__init__()
        if not isinstance(in_features, Maps) or not isinstance(data_dim, Maps):
            raise TypeError(f"ToPicture: expected Maps of the features and of the data, such as data_dim=Maps(28, 28), "
                            f"got {in_features!r} and {data_dim!r}")  # fmt: skip
        self.weight: Any = ToMaps(in_features, data_dim, kernel=kernel)
        # in the place of the convolution's bias: the picture's mean is learned at once, pixel by pixel
        self.weight.layer.register_parameter("bias", None)
        self.bias = nn.Parameter(torch.zeros(data_dim))

    def forward(self, h: Tensor) -> Tensor:
        return self.weight(h) + self.bias


class ResidualBlock(Recorded, nn.Module):
    """h + V * a(n(W * a(n(h)))): two convolutions of width 3; V starts at zero, so that any stack starts as h.

    References: He et al. 2016 (activation before the convolution).

    Args:
        channels: of h.
        inner: channels between the two convolutions.
        activation, norm, weight_norm: as of `ResidualStage`.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        *,
        activation: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        first: Any = nn.Conv2d(channels, inner, 3, padding=1)
        last: Any = nn.Conv2d(inner, channels, 3, padding=1)
        start_kaiming(first, last)
        if weight_norm:
            first, last = with_weight_norm(first), with_weight_norm(last)
        with torch.no_grad():
            # a weight of zero has no direction: under weight norm its length is set to zero
            (last.parametrizations.weight.original0 if weight_norm else last.weight).zero_()
        before = [[*([norm(width)] if norm else []), activation()] for width in (channels, inner)]
        self.change = nn.Sequential(*before[0], first, *before[1], last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.change(h)


class ResidualStage(Recorded, nn.Module):
    """A stage of feature maps: its inputs are brought to its resolution and added, then come residual blocks.

    Args:
        sizes: lengths of the inputs; a `Maps` is a picture, and enters by a convolution (`ToMaps`).
        maps: of the output.
        blocks: number of residual blocks.
        inner: channels inside a block; None: those of `maps`.
        activation: constructor of the nonlinearity.
        norm: constructor `channels -> Module` on maps `(n, channels, height, width)`, before each nonlinearity of a
            block: `partial(nn.GroupNorm, 1)` is layer norm. No batch norm, which would mix data points and particles.
        weight_norm: learns the length and the direction of each unit's weights apart.

    Raises:
        TypeError, ValueError: as of `ToMaps`; at each call another number of inputs.

    Example:
        >>> import torch
        >>> from zoo.parts.networks import Maps, ResidualStage
        >>> stage = ResidualStage((Maps(28, 28), 10), Maps(14, 14, 8), blocks=1)
        >>> stage(torch.zeros(5, 784), torch.zeros(3, 1, 10)).shape
        torch.Size([3, 5, 1568])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        maps: Maps,
        *,
        blocks: int = 2,
        inner: int | None = None,
        activation: Callable[[], nn.Module] = nn.ELU,
        norm: Callable[[int], nn.Module] | None = None,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.inputs: Any = nn.ModuleList(ToMaps(size, maps) for size in sizes)
        self.size = maps
        # the outputs are added: each entrance starts with its share of the variance
        start_kaiming(*(entrance.layer for entrance in self.inputs), inputs=len(sizes))
        if weight_norm:
            entrance: Any
            for entrance in self.inputs:
                entrance.layer = with_weight_norm(entrance.layer)
        options: dict[str, Any] = {"activation": activation, "norm": norm, "weight_norm": weight_norm}
        width = maps.channels if inner is None else inner
        # the blocks start as nothing, so that a deep stage starts as its entrances alone
        self.blocks = nn.Sequential(*(ResidualBlock(maps.channels, width, **options) for _ in range(blocks)))
        self.last = activation()

    def forward(self, *inputs: Tensor) -> Tensor:
        total = sum(entrance(v) for entrance, v in zip(self.inputs, inputs, strict=True))
        return as_vectors(self.last(self.blocks(as_maps(total, self.size))), total.shape[:-1])
