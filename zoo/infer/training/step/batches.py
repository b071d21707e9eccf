"""The data of a training: rows of tensors, or an object that makes its batches itself."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zoo.parts.checks import listed


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
        arguments: the arguments of the pair; None stands for one that is left out, as in `(x, None, mask)`. With a
            mask among them, a tensor of bools, NaN may stand under it, so the model checks the values.
        name: of the data, for errors.

    Raises:
        ValueError: no rows, unequal lengths, different devices, NaN or infinite values; names the rows.
    """

    def __init__(self, arguments: Sequence[Tensor | None], name: str) -> None:
        tensors = [t for t in arguments if t is not None]
        lengths = [len(t) if t.dim() else 0 for t in tensors]
        if lengths[0] == 0 and len(set(lengths)) == 1:
            raise ValueError(f"{name} is empty")
        if len(set(lengths)) > 1:
            raise ValueError(f"{name}: the tensors must have equal lengths, got {lengths}")
        if len({t.device for t in tensors}) > 1:
            raise ValueError(f"{name}: the tensors are on different devices, {[str(t.device) for t in tensors]}")
        if not any(t.dtype == torch.bool for t in tensors):
            for i, tensor in enumerate(arguments):
                _refuse_nonfinite(tensor, f"{name}[{i}]" if len(tensors) > 1 else name)
        # Detached: data that require a gradient would accumulate one of their own size at each step.
        self.tensors = tuple([None if t is None else t.detach() for t in arguments])
        self.device = tensors[0].device

    def __len__(self) -> int:
        return next(len(t) for t in self.tensors if t is not None)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        # index_select takes a quarter of the time of t[index].
        return tuple([None if t is None else t.index_select(0, index) for t in self.tensors])


def _refuse_nonfinite(tensor: Tensor | None, name: str) -> None:
    if tensor is None or not tensor.is_floating_point():
        return
    bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(-1).nonzero().flatten().tolist()
    if bad:
        said = f"{name}: NaN or infinite values in {len(bad)} of {len(tensor)} rows: {listed(bad)}"
        if tensor.dim() == 3:
            sequence, frame = (~tensor.isfinite()).any(-1).nonzero()[0].tolist()
            said += f"; the first is sequence {sequence}, frame {frame}, both counted from 0"
        raise ValueError(said)


def rows_of(data: Tensor | Sequence[Tensor | None] | Rows, name: str = "data") -> Rows:
    """The data as rows.

    Raises:
        ValueError: as in `TensorRows`.
        TypeError: the data are neither tensors nor `Rows`.
    """
    if isinstance(data, Tensor):
        rows: Rows = TensorRows((data,), name)
    elif isinstance(data, list | tuple) and _are_tensors(data):
        rows = TensorRows(data, name)
    elif isinstance(data, Rows):
        rows = data
    else:
        raise TypeError(
            f"{name} must be a tensor, a tuple of tensors or an object with __len__ and batch(index, generator), "
            f"got {type(data).__name__}"
        )
    if len(rows) == 0:
        raise ValueError(f"{name} is empty")
    return rows


def _are_tensors(data: Sequence[object]) -> bool:
    return all(isinstance(t, Tensor | None) for t in data) and any(t is not None for t in data)


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
