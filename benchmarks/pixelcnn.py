"""Time and memory of a training step and of a draw of `PixelCNN` beside masked convolutions in PyTorch, interleaved.

    python -m benchmarks.pixelcnn              # prints the tables, writes results/speed_pixelcnn.json
    python -m benchmarks.pixelcnn --quick      # a smoke run, writes nothing

By hand as public codes do it: full kernels whose weights are multiplied by a mask in every pass, and a draw that runs
the whole network for each pixel. The zoo's network drawn plainly tells the gain of keeping features from the gain of
convolutions without zero weights. All compute the same network: before anything is timed, scores and draws are
compared from the same weights. Rounds, turns and ratios are those of `benchmarks.vae_step`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import guides
from benchmarks.steps import main
from benchmarks.turns import train, turns
from zoo import Density
from zoo.infer import ELBO
from zoo.parts.conditionals import PixelCNN
from zoo.parts.distributions.autoregressive import draw_level, scaled


class Size(NamedTuple):
    side: int
    channels: int
    layers: int
    kernel: int
    rows: int
    draws: bool = False
    levels: int = 2
    steps: int = 1

    @property
    def pixels(self) -> int:
        return self.side**2


SIZES = {
    "step, 28 x 28, 16 maps, 4 layers of width 5, 100 pictures": Size(28, 16, 4, 5, 100),
    "step, 28 x 28, 32 maps, 4 layers of width 7, 16 levels, 50 pictures": Size(28, 32, 4, 7, 50, levels=16),
    "step, 8 x 8, 24 maps, 3 layers of width 5, 17 levels, 100 pictures": Size(8, 24, 3, 5, 100, levels=17, steps=4),
    "draw, 28 x 28, 16 maps, 4 layers of width 5, one picture": Size(28, 16, 4, 5, 1, draws=True),
    "draw, 8 x 8, 24 maps, 3 layers of width 5, 17 levels, 100 pictures": Size(8, 24, 3, 5, 100, draws=True, levels=17),
}


class MaskedConv(nn.Conv2d):
    """A convolution of full width, whose weights are multiplied by a mask."""

    def __init__(self, given: nn.Conv2d, height: int, width: int) -> None:
        super().__init__(given.in_channels, given.out_channels, (height, width), padding=(height // 2, width // 2))
        mask = torch.zeros_like(self.weight)
        rows, columns = given.kernel_size
        mask[:, :, :rows, :columns] = 1.0
        self.register_buffer("mask", mask)
        with torch.no_grad():
            self.weight[:, :, :rows, :columns] = given.weight
            self.bias.copy_(given.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class ByHand(nn.Module):
    """The network of a `PixelCNN` without h, by masked convolutions, from its weights."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.shape, self.levels = given.shape, given.levels
        width = 2 * given.layers[0].reach + 1
        self.vertical = nn.ModuleList(MaskedConv(layer.vertical, width, width) for layer in given.layers)
        self.horizontal = nn.ModuleList(MaskedConv(layer.horizontal, 1, width) for layer in given.layers)
        self.down = nn.ModuleList(layer.down for layer in given.layers)
        self.across = nn.ModuleList(layer.across for layer in given.layers)
        self.hidden, self.head, self.bias = given.hidden, given.head, given.bias

    def logits(self, x: Tensor) -> Tensor:
        v = w = x.view(-1, 1, *self.shape)
        for place, vertical in enumerate(self.vertical):
            a, b = vertical(v).chunk(2, 1)
            v = torch.tanh(a) * torch.sigmoid(b)
            a, b = (self.horizontal[place](w) + self.down[place](v)).chunk(2, 1)
            out = self.across[place](torch.tanh(a) * torch.sigmoid(b))
            w = w + out if place else out
        found = self.head(F.relu(self.hidden(F.relu(w)))).flatten(2).mT
        return found + self.bias.view(found.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(scaled(x, self.levels))
        if self.levels == 2:
            return F.binary_cross_entropy_with_logits(logits.squeeze(-1), x, reduction="sum")
        return F.cross_entropy(logits.flatten(0, 1), x.long().flatten(), reduction="sum")


def network(size: Size) -> PixelCNN:
    shape = (size.side, size.side)
    return PixelCNN(0, size.pixels, shape=shape, channels=size.channels, layers=size.layers, kernel=size.kernel,
                    levels=size.levels)  # fmt: skip


def data(size: Size) -> Tensor:
    return torch.randint(size.levels, (size.rows, size.pixels)).float()


def zoo_loss(given: PixelCNN) -> nn.Module:
    model = Density(given.data_dim, given)
    return ELBO()(model, guides.Empty(model))


def plain_draw(logits: Callable[[Tensor], Tensor], levels: int, uniform: Tensor) -> Tensor:
    """Pictures, by the whole network for each pixel."""
    x = torch.zeros_like(uniform)
    for pixel in range(uniform.shape[1]):
        x[:, pixel] = draw_level(logits(scaled(x, levels))[:, pixel], uniform[:, pixel])
    return x


@torch.no_grad()
def repeat(draw: Callable[[Tensor], Tensor], size: Size) -> None:
    """Draws in turns."""
    for _ in turns():
        draw(torch.rand(size.rows, size.pixels))


def by_hand(size: Size) -> None:
    masked = ByHand(network(size))
    if size.draws:
        repeat(lambda uniform: plain_draw(masked.logits, size.levels, uniform), size)
    else:
        train(masked, data(size))


def zoo(size: Size) -> None:
    given = network(size)
    if size.draws:
        repeat(lambda uniform: given.draw(uniform, None), size)
    else:
        train(zoo_loss(given), data(size))


def zoo_plain(size: Size) -> None:
    given = network(size)
    repeat(lambda uniform: plain_draw(lambda x: given.logits(x, None), size.levels, uniform), size)


def check(size: Size) -> None:
    """Refuses a size at which the two networks differ, in scores, gradients or draws."""
    given = network(size)
    masked, x = ByHand(given), data(size)
    torch.testing.assert_close(zoo_loss(given)(x), masked(x), rtol=1e-5, atol=1e-2)
    ours = torch.autograd.grad(zoo_loss(given)(x), given.layers[0].across.weight)
    torch.testing.assert_close(
        ours, torch.autograd.grad(masked(x), given.layers[0].across.weight), rtol=1e-3, atol=1e-2
    )
    if size.draws:
        with torch.no_grad():
            uniform = torch.rand(1, size.pixels)
            plain = plain_draw(masked.logits, size.levels, uniform)
            # rounding moves a pixel in a million across a step of the distribution function, and all after it
            assert torch.equal(given.draw(uniform, None), plain), "the draws differ"


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand, masked": by_hand,
    "zoo's network, the whole of it for each pixel": zoo_plain,
    "zoo": zoo,
}


if __name__ == "__main__":
    main("benchmarks.pixelcnn", __doc__, SIZES, ROWS, check, key="pixelcnn_steps",
         applies=lambda row, size: size.draws or "whole" not in row)  # fmt: skip
