"""From row numbers to the arguments of a loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.infer import carry as carried
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.step.batches import Rows, batches_of, device_of
from zoo.infer.training.step.parts import Parts


@dataclass(frozen=True)
class Batcher:
    """Makes the arguments of a loss from the rows of one data set, on the training's device.

    Attributes:
        rows: the data set.
        parts: the parts of the loss.
        parallel: the processes, each of which takes its share of a batch.
        batch_size: rows of a batch, over all processes together.
        drop_last: leave out the last batch of an epoch where it is smaller.
    """

    rows: Rows
    parts: Parts
    parallel: Parallel
    batch_size: int
    drop_last: bool = False

    def batches(self, seed: int, epoch: int | None) -> list[Tensor]:
        """The row numbers of every batch of an epoch, over all processes; None: in a fixed order."""
        if self.parts.whole:
            return [torch.arange(len(self.rows), device=device_of(self.rows))]
        return batches_of(self.rows, self.batch_size, seed, epoch, drop_last=self.drop_last)

    def mine(self, index: Tensor) -> Tensor:
        """This process's rows of a batch."""
        # A process without a row takes part with another's row, at weight 0: a process that sat out a step would leave
        # the others waiting for its gradient.
        return index[:1] if self.is_idle(index) else self.parallel.share(index)

    def is_idle(self, index: Tensor) -> bool:
        """Tells whether a batch has no row for this process."""
        return len(index) <= self.parallel.rank

    def arguments(
        self, index: Tensor, generator: torch.Generator, carry: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the loss for the rows `index`.

        Args:
            generator: source of all randomness of the batch.
            carry: the state to go on from; None where the sequences begin.

        Raises:
            TypeError: the rows gave something other than a tuple.
            ValueError: the rows gave another number of rows than was asked for.
        """
        found, device = self.rows.batch(index, generator), self.parallel.device
        if not isinstance(found, tuple | list):
            raise TypeError(f"batch(index, generator): expected a tuple of tensors, got {type(found).__name__}")
        args = tuple([t if t is None else t.to(device, non_blocking=True) for t in found])
        rows = next(len(t) for t in args if t is not None)
        if rows != len(index):
            raise ValueError(f"batch(index, generator): asked for {len(index)} rows, got {rows}")
        kwargs = {"index": index.to(device, non_blocking=True)} if self.parts.indexed else {}
        if carry is None and self.parts.model is not None:
            carry = carried.opening(self.parts.model, self.rows, index, device)
        return args, kwargs | carried.keyword(carry)
