"""Sequences that are simulated anew for every batch of a training."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.data.sequences import Sequences
from zoo.data.simulated.arguments import check_whole


class Fresh:
    """A simulator as data for `fit`: no two batches have the same sequences, and none is kept.

    Args:
        make: `make(num=, seed=)` gives `num` `Sequences`, a function of the seed; a simulator whose other arguments
            are given by `functools.partial`.
        num: sequences that count as an epoch.

    `fit` calls `batch(index, generator)`. The seed of each batch is the generator's, so that a resumed run is
    bit-equal. It does not look through an epoch before the first step, since no row will come again.

    Raises:
        ValueError: `num` no whole number, or below 1; sequences of another number than asked for.

    Example:
        >>> from functools import partial
        >>> from zoo.data import Fresh
        >>> from zoo.data.simulated.balls import ROOMS, videos
        >>> rows = Fresh(partial(videos, ROOMS["box_pushed"], T=10), num=1000)
        >>> x, u, mask = rows.batch(torch.arange(8), torch.Generator().manual_seed(0))
        >>> len(rows), x.shape, u.shape, mask
        (1000, torch.Size([8, 10, 1024]), torch.Size([8, 10, 2]), None)
    """

    anew = True

    def __init__(self, make: Callable[..., Sequences], num: int) -> None:
        check_whole(num=num)
        self.make, self.num = make, num

    def __len__(self) -> int:
        return self.num

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`(x, u, mask)` of as many new sequences as `index` has rows."""
        # numpy's RandomState takes seeds of 32 bits
        seed = int(torch.randint(2**32, (), generator=generator))
        made = self.make(num=len(index), seed=seed)
        if len(made) != len(index):
            raise ValueError(f"Fresh: expected {len(index)} sequences of make(num={len(index)}), got {len(made)}")
        return made.batch(torch.arange(len(made)), generator)
