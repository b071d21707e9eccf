"""Real numbers from grey levels, x = (k + u) / L with u uniform in (0, 1): data for densities, such as flows.

A density of levels themselves can be made as large as one likes. Of x it has a meaning: its average over the bin of
width 1/L that stands for a level k is the probability of k, times L, so E_u[log p((k + u) / L)] - D log L is at most
log P(k) of D pixels (Theis et al. 2016). `zoo.infer.bits_per_dim(nats, D, levels=L)` is that rule in bits.
"""

import torch
from torch import Tensor

from zoo.data.dataset import Split


class Dequantised:
    """Levels as data for `fit`: every batch has fresh noise, so no two epochs see the same numbers.

    Args:
        levels: a `Split`, or integers `(N, ...)` from 0 to `num_levels - 1`, kept as they are.
        num_levels: L, given exactly if `levels` is a tensor.

    `fit` calls `batch(index, generator)`. All randomness is the generator's: the same state gives the same numbers, so
    that a resumed run is bit-equal.

    Reference: Uria, Murray and Larochelle 2013 (RNADE); Theis, van den Oord and Bethge 2016.

    Raises:
        ValueError: levels out of range, with their rows; `num_levels` below 2, missing, or given beside a `Split`.
        TypeError: levels that are no integers.

    Example:
        >>> import torch
        >>> from zoo.data import Dequantised
        >>> rows = Dequantised(torch.tensor([[0, 3], [1, 2]]), num_levels=4)
        >>> (x,) = rows.batch(torch.tensor([0]), torch.Generator().manual_seed(0))
        >>> (4 * x).floor()
        tensor([[0., 3.]])
    """

    def __init__(self, levels: Split | Tensor, *, num_levels: int | None = None) -> None:
        self.levels, self.num_levels = _levels(levels, num_levels)

    def __len__(self) -> int:
        return len(self.levels)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor]:
        """`(x,)`, float32 `(len(index), ...)` in (0, 1): the rows `index` (int64), with fresh noise."""
        return (_noisy(self.levels.index_select(0, index.to(self.levels.device)), self.num_levels, generator),)


def dequantise(levels: Split | Tensor, seed: int, *, num_levels: int | None = None) -> Tensor:
    """One draw of all rows, float32 in (0, 1), fixed by `seed`: for validation and test.

    Args:
        levels, num_levels: as for `Dequantised`.
        seed: seed of the draw, which is made on the CPU: a seed gives the same numbers on every device.

    Raises:
        ValueError, TypeError: as for `Dequantised`.
    """
    found, num = _levels(levels, num_levels)
    return _noisy(found, num, torch.Generator().manual_seed(seed))


def _noisy(levels: Tensor, num_levels: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(levels.shape, generator=generator, device=generator.device).to(levels.device)
    # away from 0 and 1 by more than float32 rounds k + u: at either end the level would be lost, and a logit infinite
    margin = num_levels * 2.0**-23
    return u.mul_(1 - 2 * margin).add_(margin).add_(levels).div_(num_levels)


def _levels(levels: Split | Tensor, num_levels: int | None) -> tuple[Tensor, int]:
    if isinstance(levels, Split):
        if num_levels is not None:
            raise ValueError(f"num_levels: a Split knows its own, {levels.num_levels}")
        return levels.levels, levels.num_levels
    if not isinstance(levels, Tensor) or levels.is_floating_point() or levels.dtype == torch.bool:
        got = levels.dtype if isinstance(levels, Tensor) else type(levels).__name__
        raise TypeError(f"levels: expected a Split or whole numbers such as torch.uint8, got {got}")
    if num_levels is None or num_levels < 2:
        raise ValueError(f"num_levels: expected the number of levels, at least 2, got {num_levels}")
    # extremes as Python's numbers: 256 is 0 beside bytes
    if levels.numel() and (levels.min().item() < 0 or levels.max().item() >= num_levels):
        outside = (levels.long() < 0) | (levels.long() >= num_levels)
        rows = outside.nonzero()[:, 0].unique().tolist()
        raise ValueError(f"levels: expected 0 to {num_levels - 1}; {len(rows)} rows hold others, the first of them "
                         f"{rows[:5]}")  # fmt: skip
    return levels, num_levels
