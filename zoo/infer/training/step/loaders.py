"""A `Dataset` or a `DataLoader` of torch as the rows of a training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.parts.aside import seeded, streams_kept
from zoo.parts.door import Wanted
from zoo.parts.door.datasets import rows_and_collate, yielded


def as_arguments(found: Any, wanted: Wanted, name: str) -> tuple[Any, ...]:
    """One batch of a collection as the arguments of the loss, as tensors of the dtype that the pair wants."""
    values = yielded(found, wanted.names, wanted.more, name)
    named = {wanted.name(place): value for place, value in enumerate(values)}
    return tuple([wanted.tensor(value, key, f"{name}: {key}") for key, value in named.items()])


class DatasetRows:
    """Rows of a `Dataset`, each read when its batch is made.

    Args:
        dataset: with a length, and rows by their number.
        wanted: the form in which the pair wants its data.
        name: of the data, opens errors.
    """

    def __init__(self, dataset: Any, wanted: Wanted, name: str) -> None:
        self.dataset, self.collate = rows_and_collate(dataset)
        self.wanted, self.name = wanted, name

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The arguments of the rows `index`."""
        return as_arguments(self.collate([self.dataset[i] for i in index.tolist()]), self.wanted, self.name)


class LoaderRows(DatasetRows):
    """The batches of a `DataLoader` whose data set has rows by number: in the order of its sampler, by its workers.

    The order of an epoch is drawn from `seed` and the epoch alone, whatever generator the sampler holds, so that a
    training that is resumed takes the batches that were left. A sampler that keeps a state of its own has another order
    when it is resumed; so have rows that are changed by chance within workers.

    Attributes:
        batch_size: of the loader; None where its batch sampler alone knows.
    """

    def __init__(self, loader: DataLoader, wanted: Wanted, name: str) -> None:
        super().__init__(loader, wanted, name)
        self.loader, self.batch_size = loader, loader.batch_size
        self._seed = 0
        self._coming: list[list[int]] = []
        self._ahead: Iterator[Any] = iter(())

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The row numbers of each batch of an epoch; None: all rows in their order."""
        self._seed = int(np.random.default_rng((seed, 0 if epoch is None else epoch + 1)).integers(2**31))
        if epoch is None:
            self._coming = [rows.tolist() for rows in torch.arange(len(self)).split(self.batch_size or batch_size)]
        else:
            self._coming = self._drawn()
        self._ahead = iter(())
        return [torch.tensor(rows) for rows in self._coming]

    def _drawn(self) -> list[list[int]]:
        sampler: Any = self.loader.batch_sampler
        own = getattr(getattr(sampler, "sampler", sampler), "generator", None)
        before = None if own is None else own.get_state()
        with seeded(self._seed):
            if own is not None:
                own.manual_seed(self._seed)
            drawn = list(sampler)
        # the caller's generator is as it was, for his own loops over the loader
        if own is not None:
            own.set_state(before)
        return [[int(i) for i in rows] for rows in drawn]

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The arguments of the rows `index`: the next batch of the workers where it is the one that is asked for."""
        rows = index.tolist()
        if not self.loader.num_workers or rows not in self._coming:
            return super().batch(index, generator)
        place = self._coming.index(rows)
        found = None if place else next(self._ahead, None)
        if found is None:
            # the first batch of an epoch, or of what is left of one that is resumed
            self._ahead = iter(self._read_by_workers(self._coming[place:]))
            found = next(self._ahead)
        self._coming = self._coming[place + 1 :]
        return as_arguments(found, self.wanted, self.name)

    def _read_by_workers(self, coming: list[list[int]]) -> DataLoader:
        loader = self.loader
        return DataLoader(
            self.dataset, batch_sampler=coming, collate_fn=self.collate, num_workers=loader.num_workers,
            pin_memory=loader.pin_memory, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
            prefetch_factor=loader.prefetch_factor, multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator().manual_seed(self._seed),
        )  # fmt: skip


class StreamRows:
    """The batches of an `IterableDataset`, in the order in which they come; an epoch is one pass.

    The batches are counted by a pass beforehand, of `most` batches at most. Each epoch begins a new pass, and so does a
    training that is resumed within an epoch, which passes over the batches that it has had: it goes on as before if
    the data set yields the same again. Values are looked at in the steps alone.
    """

    # `fit` reads this: the rows are not looked at beforehand, as a stream may be made anew at each pass
    anew = True

    def __init__(self, loader: DataLoader, wanted: Wanted, name: str, most: int | None) -> None:
        self.loader, self.wanted, self.name = loader, wanted, name
        sizes = []
        for found in loader:
            sizes.append(len(next(t for t in as_arguments(found, wanted, name) if t is not None)))
            if len(sizes) == most:
                break
        if not sizes:
            raise ValueError(f"{name} is empty")
        self.batch_size = loader.batch_size
        self._batches = list(torch.arange(sum(sizes)).split(sizes))
        self._starts = {int(rows[0]): place for place, rows in enumerate(self._batches)}
        self._next = len(self._batches)
        self._pass: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The numbers of the rows of each batch, counted as they come."""
        return list(self._batches)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The arguments of the batch that begins with the row `index[0]`.

        Raises:
            ValueError: the data set has ended before, or yields a batch of another size than in the first pass.
        """
        place = self._starts[int(index[0])]
        if place == 0 or place < self._next:
            # a loader draws a number for its workers, which would move the training's noise where it is resumed
            with streams_kept():
                self._pass, self._next = iter(self.loader), 0
        found: Any = None
        while self._next <= place:
            found, self._next = next(self._pass, None), self._next + 1
        if found is None:
            raise ValueError(
                f"{self.name}: the data set ended after {self._next - 1} batches, in its first pass it had "
                f"{len(self._batches)}; each epoch asks for a pass of its own (`__iter__`)"
            )
        return as_arguments(found, self.wanted, self.name)
