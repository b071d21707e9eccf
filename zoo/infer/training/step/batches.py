"""The data of a training: rows of tensors, or an object that makes its batches itself."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo.infer.training.step.loaders import DatasetRows, LoaderRows, StreamRows
from zoo.parts.checks import listed
from zoo.parts.door import OnFile, Wanted, in_pieces, is_collection, is_data
from zoo.parts.door.datasets import collated, has_rows, yielded
from zoo.parts.door.tables import refuse_another_order
from zoo.parts.given.gaps import MISSING

# rows of a batch where the caller does not say
BATCH = 128
# of a pair of which nothing is known
ANY = Wanted()


@runtime_checkable
class Rows(Protocol):
    """Data that make their own batches, such as dynamic binarisation, which draws new pixels at every visit.

    `batch(index, generator)` returns the tensors of the rows `index` (a LongTensor); None stands for an argument that
    the pair does without. All randomness of a batch comes from `generator`, a CPU generator that `fit` saves with its
    checkpoints, so that a resumed training sees the same batches.

    Rows may state four things more, as `zoo.data.Buckets`, `zoo.data.Streams` and `zoo.data.Fresh` do: the batches of
    an epoch (`OwnBatches`), whether a batch goes on where the one before it ended, the frames before those of a batch
    (`zoo.infer.carry`), and that every row is made anew (`MadeAnew`).
    """

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]: ...


@runtime_checkable
class OwnBatches(Protocol):
    """Rows that choose the batches of an epoch, in place of a permutation of all rows."""

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The row numbers of every batch of an epoch; None: in a fixed order, for evaluation."""


@runtime_checkable
class MadeAnew(Protocol):
    """Rows that say whether every row is made anew, so that none comes again."""

    anew: bool


class TensorRows:
    """Rows of tensors that share their first axis. The tensors stay on the device where the caller put them.

    Args:
        arguments: the arguments of the pair, arrays on file among them; None stands for one that is left out, as in
            `(x, None, mask)`. With a mask among them, a tensor of bools, NaN may stand under it, so the model checks
            the values.
        name: of the data, for errors.
        names: of the program's arguments, for errors: NaN in x of a program with a mask are missing values.

    Raises:
        ValueError: no rows, unequal lengths, different devices, NaN or infinite values; names the rows.
    """

    def __init__(self, arguments: Sequence[Tensor | OnFile | None], name: str, names: Sequence[str] = ()) -> None:
        tensors = [t for t in arguments if t is not None]
        lengths = [len(t) if t.ndim else 0 for t in tensors]
        if lengths[0] == 0 and len(set(lengths)) == 1:
            raise ValueError(f"{name} is empty")
        if len(set(lengths)) > 1:
            hint = "" if len(lengths) < 4 else "; are they sequences? zoo.data.Sequences and Buckets take these"
            raise ValueError(f"{name}: the tensors must have equal lengths, got {lengths}{hint}")
        if len({t.device for t in tensors}) > 1:
            raise ValueError(f"{name}: the tensors are on different devices, {[str(t.device) for t in tensors]}")
        if not any(t.dtype == torch.bool for t in tensors):
            for i, tensor in enumerate(arguments):
                _refuse_nonfinite(tensor, f"{name}[{i}]" if len(tensors) > 1 else name, () if i else names)
        # Detached: data that require a gradient would accumulate one of their own size at each step.
        self.tensors = tuple([t.detach() if isinstance(t, Tensor) else t for t in arguments])
        self.device = tensors[0].device

    def __len__(self) -> int:
        return next(len(t) for t in self.tensors if t is not None)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        # index_select takes a quarter of the time of t[index].
        return tuple([t.index_select(0, index) if isinstance(t, Tensor) else None if t is None else t[index]
                      for t in self.tensors])  # fmt: skip


def _refuse_nonfinite(tensor: Tensor | OnFile | None, name: str, names: Sequence[str]) -> None:
    if tensor is None or not tensor.dtype.is_floating_point:
        return
    bad: list[int] = []
    place = (0, 0)
    # In pieces: of data on file that are larger than memory, the answers for all entries would fill it too.
    for start, some in in_pieces(tensor):
        wrong = ~some.isfinite()
        if not wrong.any():
            continue
        if not bad and some.dim() == 3:
            sequence, frame = wrong.any(-1).nonzero()[0].tolist()
            place = sequence + start, frame
        bad += (wrong.reshape(len(some), -1).any(-1).nonzero().flatten() + start).tolist()
    if bad:
        said = f"{name}: NaN or infinite values in {len(bad)} of {len(tensor)} rows: {listed(bad)}"
        if tensor.ndim == 3:
            said += f"; the first is sequence {place[0]}, frame {place[1]}, both counted from 0"
        if "mask" in names:
            places = [one if one in (names[0], "mask") else "None" for one in names[: names.index("mask") + 1]]
            said += f"; {MISSING.format('values')}, data ({', '.join(places)})"
        raise ValueError(said)


def rows_of(
    data: Any, name: str = "data", wanted: Wanted = ANY, *, batch_size: int | None = None, most: int | None = None
) -> Rows:
    """The data as rows, their numbers in the dtype that the pair wants.

    Args:
        data: as in `fit`.
        name: of the data, opens errors.
        wanted: the form in which the pair wants its data.
        batch_size: of an `IterableDataset`.
        most: of a stream, whose end may never come, the most batches to count.

    Raises:
        ValueError: as in `TensorRows`; numbers that would be lost.
        TypeError: the data are neither numbers nor `Rows`.
    """
    rows: Rows
    if isinstance(data, Rows):
        rows = data
    elif is_collection(data):
        rows = _rows_of_collection(data, wanted, name, batch_size, most)
    else:
        rows = _rows_of_arrays(data, wanted, name)
    if len(rows) == 0:
        raise ValueError(f"{name} is empty")
    return rows


def _rows_of_arrays(data: Any, wanted: Wanted, name: str) -> TensorRows:
    # A list of numbers is one array; a list of arrays is what a tuple of them is, as it was when both held tensors.
    several = isinstance(data, tuple) or (
        isinstance(data, list) and any(v is None or hasattr(v, "shape") for v in data)
    )
    values = tuple(data) if several else (data,)
    if all(value is None for value in values) or not all(value is None or is_data(value, "x") for value in values):
        raise TypeError(
            f"{name} must be a tensor, an array or a table, a tuple of such, a Dataset or DataLoader, or an object "
            f"with __len__ and batch(index, generator), got {type(data).__name__}"
        )
    label = f"{name}[{{}}]" if sum(value is not None for value in values) > 1 else name
    refuse_another_order({label.format(place): value for place, value in enumerate(values)})
    named = {
        wanted.name(place): wanted.tensor(value, wanted.name(place), label.format(place), on_file=True)
        for place, value in enumerate(values)
    }
    if len({len(value) if value.ndim else 0 for value in named.values() if value is not None}) == 1:
        named = wanted.as_batch(named)
    return TensorRows(tuple(named.values()), name, wanted.names)


def _rows_of_collection(data: Any, wanted: Wanted, name: str, batch_size: int | None, most: int | None) -> Rows:
    loads = isinstance(data, DataLoader)
    if not has_rows(data):
        return StreamRows(data if loads else DataLoader(data, batch_size or BATCH, collate_fn=collated), wanted, name,
                          most)  # fmt: skip
    if isinstance(data, TensorDataset):
        return _rows_of_arrays(yielded(data.tensors, wanted.names, wanted.more, name), wanted, name)
    return LoaderRows(data, wanted, name) if loads else DatasetRows(data, wanted, name)


def batch_size_of(given: int | None, rows: Rows, *, drop_last: bool) -> int:
    """The rows of a batch: the given number, that of a `DataLoader`, or 128 and all rows where there are fewer.

    Raises:
        ValueError: a number that is not that of the loader; no batch would be left.
    """
    if isinstance(rows, LoaderRows | StreamRows):
        if given is not None and given != rows.batch_size:
            raise ValueError(f"batch_size {given}: the DataLoader makes its batches itself, of {rows.batch_size} rows; "
                             "leave batch_size out")  # fmt: skip
        return rows.batch_size or BATCH
    if given is not None:
        return int(given)
    if drop_last and len(rows) < BATCH:
        raise ValueError(f"drop_last: the data, {len(rows)} rows, are fewer than a batch of {BATCH}; give batch_size")
    return min(BATCH, len(rows))


def epoch_order(num: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in an epoch."""
    # A function of seed and epoch, so that a resumed training needs no state for it; numpy's generator takes both as
    # one seed, and neighbouring seeds give unrelated orders.
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num))


def batches_of(rows: Rows, batch_size: int, seed: int, epoch: int | None, *, drop_last: bool = False) -> list[Tensor]:
    """The row numbers of each batch of an epoch.

    Args:
        epoch: None takes the rows in a fixed order, for evaluation.
        drop_last: leave out a last batch that is smaller than the others, where the rows do not choose the batches.
    """
    device = device_of(rows)
    if isinstance(rows, OwnBatches):
        return [index.to(device) for index in rows.batches(batch_size, seed, epoch)]
    order = torch.arange(len(rows)) if epoch is None else epoch_order(len(rows), seed, epoch)
    batches = list(order.to(device).split(batch_size))
    return batches[:-1] if drop_last and len(batches[-1]) < batch_size else batches


def device_of(rows: Rows) -> torch.device:
    """The device on which the rows take their row numbers: that of the tensors, or the CPU."""
    # Rows that make their own batches may state one too: `index_select` wants index and tensor on one device.
    return getattr(rows, "device", torch.device("cpu"))
