"""Convolutional networks between a picture and features, layer by layer half or twice the resolution."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from zoo.parts.checks import check_counts, widths
from zoo.parts.networks.maps import Maps
from zoo.parts.networks.residual import ToMaps
from zoo.parts.recorded import Recorded

# Layers start as torch starts them: the recipe by which a Kalman VAE learns, KL weights above all, was found so.


class ConvolutionalEncoder(Recorded, nn.Module):
    """Features of a picture: for each entry of `filters` a convolution of width 3 and stride 2, and a nonlinearity.

    References: Fraccaro et al. 2017: pictures of 32 x 32, three layers of 32 filters.

    Args:
        picture: `Maps` of the input; height and width are halved by each layer.
        filters: channels of the layers, at least one.
        activation: constructor of the nonlinearity.

    Attributes:
        size: `Maps` of the output.

    Raises:
        TypeError: `picture` is no `Maps`; `filters` hold something other than whole numbers.
        ValueError: a filter below 1, no filters, or too many layers for the picture's height and width.

    Example:
        >>> import torch
        >>> from zoo.parts.networks import ConvolutionalEncoder, Maps
        >>> encoder = ConvolutionalEncoder(Maps(32, 32), (8, 8, 8))
        >>> encoder.size, encoder(torch.zeros(5, 20, 1024)).shape
        (Maps(4, 4, 8), torch.Size([5, 20, 128]))
    """

    def __init__(
        self, picture: Maps, filters: Sequence[int] = (32, 32, 32), *, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        filters = _layers(picture, filters)
        maps = [picture, *(_shrunk(picture, i, channels) for i, channels in enumerate(filters, 1))]
        self.size = maps[-1]
        layers = (ToMaps(here, there, kernel=3) for here, there in pairwise(maps))
        self.network = nn.Sequential(*(part for layer in layers for part in (layer, activation())))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class ConvolutionalDecoder(Recorded, nn.Module):
    """Features from which one layer more makes a picture: a linear layer to small maps, then sub-pixel convolutions.

    For each entry of `filters` stands a convolution of width 3 and a nonlinearity, after which every four channels
    become 2 x 2 entries of one. The last of these spreadings is left to the layer that makes the picture,
    `partial(ToPicture, kernel=1)`: it then works on a quarter of the entries. The paper's network spreads first; the
    functions are the same, but that each of the 2 x 2 pixels has output weights of its own.

    References: Fraccaro et al. 2017: pictures of 32 x 32, three layers of 32 filters (128 before they are spread);
    Shi et al. 2016 (sub-pixel convolution).

    Args:
        in_features: length of the input.
        picture: `Maps` of the picture; each layer doubles height and width.
        filters: channels of the layers after they are spread, at least one.
        activation: constructor of the nonlinearity.

    Attributes:
        size: `Maps` of the output: of half the picture's height and width, with `4 * filters[-1]` channels.

    Raises:
        TypeError, ValueError: as of `ConvolutionalEncoder`, and of `in_features` below 1 or no whole number.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from zoo.parts.conditionals import Bernoulli
        >>> from zoo.parts.networks import ConvolutionalDecoder, Maps, ToPicture
        >>> decoder = ConvolutionalDecoder(2, Maps(32, 32), (8, 8, 8))
        >>> likelihood = Bernoulli(decoder.size, Maps(32, 32), layer=partial(ToPicture, kernel=1))
        >>> decoder.size, likelihood(decoder(torch.zeros(5, 20, 2))).shape()
        (Maps(16, 16, 32), torch.Size([5, 20, 1024]))
    """

    def __init__(
        self,
        in_features: int,
        picture: Maps,
        filters: Sequence[int] = (32, 32, 32),
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_counts(in_features=in_features)
        filters = _layers(picture, filters)
        self.size = _shrunk(picture, 1, 4 * filters[-1])
        # the linear layer has no filters of its own, and the last spreading is left out
        spread = enumerate((filters[0], *filters[:-1]))
        maps = [*(_shrunk(picture, len(filters) - i, channels) for i, channels in spread), self.size]
        self.network = nn.Sequential(
            nn.Linear(in_features, maps[0]),
            *(part for here, there in pairwise(maps) for part in (ToMaps(here, there, kernel=3), activation())),
        )

    def forward(self, a: Tensor) -> Tensor:
        return self.network(a)


def _layers(picture: Maps, filters: Sequence[int]) -> tuple[int, ...]:
    """The filters as integers, after a check that the picture can be halved as often."""
    if not isinstance(picture, Maps):
        raise TypeError(f"picture: expected Maps(height, width, channels), got {picture!r}")
    factor = 2 ** len(filters := widths(filters, "filters"))
    if not filters or picture.height % factor or picture.width % factor:
        raise ValueError(f"filters: expected at least one, and as many as {picture} can be halved, got {filters}")
    return filters


def _shrunk(picture: Maps, times: int, channels: int) -> Maps:
    """Maps of the picture's resolution, halved so many times."""
    return Maps(picture.height >> times, picture.width >> times, channels)
