"""A likelihood of pictures whose pixels are drawn one after the other."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

from zoo.parts.checks import check_counts, widths
from zoo.parts.conditionals.autoregressive.pixel_draws import draw_pixels
from zoo.parts.distributions.autoregressive import Autoregressive, levels_support
from zoo.parts.recorded import Recorded

#: memory that the intermediate results of a pass without a gradient may take, about
BYTES = 2**27


class GatedLayer(nn.Module):
    """A layer of two stacks: v_ij sees the rows above i, w_ij sees v_ij and the pixels to the left of j in row i.

    v' = gate(V * v + A h), w' = w + C gate(W * w + D v' + B h), gate(a, b) = tanh(a) sigmoid(b). The convolution V has
    no weights for rows below and W none for columns to the right: what may not be seen is shifted out of the picture.
    The first layer sees pixels, so its convolutions leave out row i and column j themselves.
    """

    # A mask makes weights zero and multiplies by them nevertheless, two fifths of those of width 5
    # (`python -m benchmarks.pixelcnn`). One stack alone has a blind spot, above and to the right of a pixel.

    def __init__(self, entering: int, channels: int, reach: int, in_features: int, *, first: bool) -> None:
        super().__init__()
        self.reach, self.last = reach, -1 if first else 0
        size = reach if first else reach + 1
        self.vertical = nn.Conv2d(entering, 2 * channels, (size, 2 * reach + 1))
        self.horizontal = nn.Conv2d(entering, 2 * channels, (1, size))
        self.down = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.across = nn.Conv2d(channels, channels, 1)
        self.told = nn.Linear(in_features, 4 * channels, bias=False) if in_features else None

    @property
    def first(self) -> bool:
        return self.last == -1

    def of_condition(self, h: Tensor | None) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """A h and B h, `(n, 2 channels, 1, 1)`; zeros without h."""
        if self.told is None or h is None:
            return 0.0, 0.0
        vertical, horizontal = self.told(h)[..., None, None].chunk(2, 1)
        return vertical, horizontal

    def forward(self, v: Tensor, w: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        reach, last, (of_v, of_w) = self.reach, self.last, self.of_condition(h)
        # a negative padding takes the last row, or the last column, off
        above = self.vertical(F.pad(v, (reach, reach, reach, last)))
        left = self.horizontal(F.pad(w, (reach, last, 0, 0)))
        if self.first:
            # of pixels with one channel, torch cannot tell channels_last, on a CPU the faster layout for few channels
            above, left = (maps.contiguous(memory_format=torch.channels_last) for maps in (above, left))
        # sums in place: no convolution needs its output for its derivative, and pages of memory are a part of a step
        v = gate(above.add_(of_v))
        out = self.across(gate(left.add_(self.down(v)).add_(of_w)))
        return v, out if self.first else out.add_(w)


class PixelCNN(Recorded, nn.Module):
    """p(x | h) = prod_ij p(x_ij | h, the pixels before it), x in {0, ..., levels - 1}^data_dim, row by row.

    Gated, with two stacks of convolutions (`GatedLayer`), so that a pixel sees everything before it that its receptive
    field holds: rows and columns within `layers * (kernel // 2)`. h enters every gate, and the logits of each pixel by
    a linear map. A score is one pass; a draw is `data_dim` small ones, which keep all that they will need again.

    References: van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders; as a decoder, Gulrajani
    et al. 2017 (PixelVAE); with a small receptive field, Chen et al. 2017 (VLAE).

    Args:
        in_features: size of h; 0: no h, `PixelCNN(0, data_dim, ...)` is a density, as `zoo.Density` takes it.
        data_dim: size of x, `height * width`.
        shape: (height, width).
        channels: feature maps of each stack.
        layers: number of layers.
        kernel: width of the convolutions, odd and at least 3.
        levels: of a pixel, at least 2.

    Raises:
        TypeError: a shape that is not made of whole numbers.
        ValueError: a shape that does not make data_dim, or with an axis of colours; an even kernel, or one below 3;
            other numbers below their least.

    Example:
        >>> import torch
        >>> from zoo.parts.conditionals import PixelCNN
        >>> likelihood = PixelCNN(7, 6, shape=(2, 3), channels=4, layers=2, kernel=3)
        >>> p = likelihood(torch.zeros(5, 7))
        >>> p.sample().shape, p.log_prob(torch.ones(6)).shape
        (torch.Size([5, 6]), torch.Size([5]))
    """

    support: constraints.Constraint

    def __init__(
        self,
        in_features: int,
        data_dim: int,
        *,
        shape: Sequence[int],
        channels: int = 16,
        layers: int = 4,
        kernel: int = 5,
        levels: int = 2,
    ) -> None:
        super().__init__()
        check_counts(0, in_features=in_features)
        check_counts(data_dim=data_dim, channels=channels, layers=layers)
        check_counts(2, levels=levels)
        self.data_dim, self.levels, self.shape = data_dim, levels, _picture(shape, data_dim)
        check_counts(3, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd width, so that a pixel stands in the middle, got {kernel}")
        self.in_features, self.support = in_features, levels_support(levels)
        reach, self.outputs = kernel // 2, 1 if levels == 2 else levels
        sizes = pairwise((1, *[channels] * layers))
        self.layers = nn.ModuleList(
            GatedLayer(entering, leaving, reach, in_features, first=place == 0)
            for place, (entering, leaving) in enumerate(sizes)
        )
        self.hidden, self.head = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, self.outputs, 1)
        self.bias = nn.Parameter(torch.zeros(data_dim * self.outputs))
        self.placed = nn.Linear(in_features, data_dim * self.outputs, bias=False) if in_features else None

    @property
    def like(self) -> Tensor:
        return self.bias

    @property
    def rows_at_once(self) -> int:
        """Pictures that a pass without a gradient takes at once."""
        # about six tensors of `channels` maps live at a time, and the logits twice
        floats = self.data_dim * (6 * self.hidden.out_channels + 2 * self.outputs)
        return max(1, BYTES // (self.bias.element_size() * floats))

    def forward(self, h: Tensor | None = None) -> Autoregressive:
        return Autoregressive(self, h)

    def logits(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Logits `(n, data_dim, outputs)` of pictures `(n, data_dim)` in [-1, 1]."""
        v = w = x.reshape(-1, 1, *self.shape)
        for layer in self.layers:
            v, w = layer(v, w, h)
        maps = self.head(F.relu(self.hidden(F.relu(w))))
        return maps.permute(0, 2, 3, 1).reshape(len(x), self.data_dim, self.outputs) + self.of_places(h)

    def of_places(self, h: Tensor | None) -> Tensor:
        """The part of the logits that depends on the place and on h alone, `(1 or n, data_dim, outputs)`."""
        places = self.bias if self.placed is None or h is None else self.placed(h) + self.bias
        return places.reshape(-1, self.data_dim, self.outputs)

    def draw(self, uniform: Tensor, h: Tensor | None) -> Tensor:
        """Pictures `(n, data_dim)` of levels, by the inverse distribution function of each pixel at `uniform`."""
        return draw_pixels(self, uniform, h)


def gate(a: Tensor) -> Tensor:
    """tanh of the first half of the channels times sigmoid of the second."""
    # halves of channels lie apart in channels_last, and a copy costs less than tanh and sigmoid of scattered numbers:
    # a tenth of a training step
    first, second = (half.contiguous(memory_format=torch.channels_last) for half in a.chunk(2, 1))
    return first.tanh() * second.sigmoid()


def _picture(shape: Sequence[int], data_dim: int) -> tuple[int, int]:
    """(height, width), after a check that they make up data_dim."""
    found = widths(shape, "shape")
    if len(found) != 2:
        raise ValueError(f"shape: PixelCNN expects (height, width) of grey pictures, without channels, got {found}")
    if found[0] * found[1] != data_dim:
        raise ValueError(f"shape: {found[0]} x {found[1]} pixels are {found[0] * found[1]} numbers, and data_dim is "
                         f"{int(data_dim)}")  # fmt: skip
    return found[0], found[1]
