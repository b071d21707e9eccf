"""Bernoulli bits from grey pixels: x_i ~ Bernoulli(grey_i), drawn anew at each access or once for all.

Grey values handed to a Bernoulli likelihood give a number, but not a likelihood. The literature draws bits:
"dynamic" MNIST (`Binarized`) anew each time a training image is seen, evaluation sets once (`binarize`).
"""

import torch
from torch import Tensor

from zoo.data.dataset import Split


def bernoulli(grey: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """float32 bits with P(1) = grey / scale, rounded to a multiple of 2^-16; grey = 0 and grey = scale are exact.

    Args:
        grey: levels or probabilities, any shape and device.
        scale: the greatest level; 1 for probabilities.
        generator: the source of all randomness.
    """
    # Torch draws uniform floats one by one, 0.4 ms for 128 x 784 on one core. Four 16-bit numbers from each 64-bit
    # draw take a quarter of that, and their rounding (< 8e-6) is far below a grey level (4e-3).
    words = torch.empty(-(-grey.numel() // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    uniform = words.view(torch.int16)[: grey.numel()].view(grey.shape).to(grey.device, torch.float32)
    # The middles of 2^16 equal cells of (0, scale): neither end can be drawn, so that level 0 never gives a one and the
    # greatest level always does.
    uniform.add_(2**15 + 0.5).mul_(scale / 2**16)
    return uniform.lt_(grey)


class Binarized:
    """Grey images as data for `fit`: every batch is a fresh Bernoulli draw, so no two epochs see the same bits.

    Args:
        grey: a `Split` (kept as uint8, a quarter of the floats' memory), or probabilities in [0, 1], float `(N, ...)`.
        labels: give the labels of the split with the bits, `(x, y)`.

    Attributes:
        labels: int64 `(N,)`, or None where they are not given.

    `fit` calls `batch(index, generator)`. All randomness is the generator's: the same state gives the same bits, so
    that a resumed run is bit-equal. Bits lie on the device of `grey`.

    Reference: dynamic binarisation as in Burda, Grosse & Salakhutdinov 2016 (IWAE).

    Raises:
        ValueError: probabilities below 0, above 1 or NaN (a NaN would quietly become a zero bit); labels are asked for,
            and there are none.
        TypeError: integer tensors, whose scale is not known; a `Split` knows its own.
    """

    def __init__(self, grey: Split | Tensor, *, labels: bool = False) -> None:
        self.labels = grey.labels if labels and isinstance(grey, Split) else None
        if labels and self.labels is None:
            raise ValueError(f"Binarized: labels were asked for, and this {type(grey).__name__} has none")
        self.grey, self.scale = _grey_and_scale(grey)

    def __len__(self) -> int:
        return len(self.grey)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """`(x,)` or `(x, y)`, x float32 bits of shape `(len(index), ...)`: the rows `index` (int64), drawn anew."""
        # index_select takes 0.006 ms, grey[index] 0.09.
        x = bernoulli(self.grey.index_select(0, index.to(self.grey.device)), self.scale, generator)
        return (x,) if self.labels is None else (x, self.labels.index_select(0, index.to(self.labels.device)))


def binarize(grey: Split | Tensor, seed: int) -> Tensor:
    """One Bernoulli draw of all rows, float32 bits fixed by `seed`: for validation and test.

    Args:
        grey: as for `Binarized`.
        seed: seed of the draw, which is made on the CPU: a seed gives the same bits on every device.

    Raises:
        ValueError, TypeError: as for `Binarized`.
    """
    grey, scale = _grey_and_scale(grey)
    return bernoulli(grey, scale, torch.Generator().manual_seed(seed))


def _grey_and_scale(grey: Split | Tensor) -> tuple[Tensor, float]:
    if isinstance(grey, Split):
        return grey.levels, grey.num_levels - 1
    if not grey.is_floating_point():
        raise TypeError(f"{grey.dtype} pixels without their scale: give the Split, or floats in [0, 1]")
    # The negation of "inside", as every comparison with NaN is False.
    outside = ((grey >= 0) & (grey <= 1)).logical_not()
    if outside.any():
        rows = outside.nonzero()[:, 0].unique().tolist()
        raise ValueError(f"{len(rows)} rows are not probabilities in [0, 1], the first of them {rows[:5]}")
    return grey, 1.0
