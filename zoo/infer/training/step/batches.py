"""What `fit` trains on: rows of tensors, or an object that makes its batches itself."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Rows(Protocol):
    """Data that makes its own batches, such as dynamic binarisation, which draws new pixels at every visit.

    `batch(index, generator)` gives the tensors for the rows `index` (a LongTensor). All its randomness comes from
    `generator`, a CPU generator that `fit` saves with its checkpoints, so that a resumed training sees the same
    batches.

    Three more are read where they are there, as of `zoo.data.Buckets` and `zoo.data.Streams`:
    `batches(batch_size, seed, epoch)`, the row numbers of every batch of an epoch, or in a fixed order for `epoch=None`
    (default: a permutation); `carried`, whether each batch goes on where the last one ended; `first(index)`, frames
    before those of the batch (`zoo.infer.carry`). An argument that the pair may do without can be None.
    """

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]: ...


class TensorRows:
    """Rows of tensors that share their first axis. The tensors stay on the device where the caller put them.

    None stands for an argument left out: `(x, None, mask)`. Where there is a mask, a tensor of bools, NaN may stand
    under it, and values are left to the model to check.
    """

    def __init__(self, arguments: Sequence[Tensor | None], name: str) -> None:
        tensors = [t for t in arguments if t is not None]
        masked = any(t.dtype == torch.bool for t in tensors)
        lengths = [len(t) if t.dim() else 0 for t in tensors]
        if lengths[0] == 0 and len(set(lengths)) == 1:
            raise ValueError(f"{name} is empty")
        if len(set(lengths)) > 1:
            raise ValueError(f"{name}: the tensors must have equal lengths, got {lengths}")
        if len({t.device for t in tensors}) > 1:
            raise ValueError(f"{name}: the tensors are on different devices, {[str(t.device) for t in tensors]}")
        for i, tensor in enumerate(arguments):
            if tensor is not None and tensor.is_floating_point() and not masked:
                bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(-1).nonzero().flatten().tolist()
                if bad:
                    which = f"{name}[{i}]" if len(tensors) > 1 else name
                    shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
                    first = "" if tensor.dim() != 3 else _first_frame(tensor)
                    raise ValueError(
                        f"{which}: NaN or infinite values in {len(bad)} of {len(tensor)} rows: {shown}{first}"
                    )
        # data that require a gradient would gather one of their own size at each step
        self.tensors = tuple([None if t is None else t.detach() for t in arguments])
        self.device = tensors[0].device

    def __len__(self) -> int:
        return next(len(t) for t in self.tensors if t is not None)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        # index_select: a quarter of the time of t[index]
        return tuple([None if t is None else t.index_select(0, index) for t in self.tensors])


def _first_frame(sequences: Tensor) -> str:
    sequence, frame = (~sequences.isfinite()).any(-1).nonzero()[0].tolist()
    return f"; the first is sequence {sequence}, frame {frame}, both counted from 0"


def rows_of(data: Tensor | Sequence[Tensor | None] | Rows, name: str = "data") -> Rows:
    """`data` as rows. ValueError for empty or non-finite data and for unequal lengths, TypeError for anything else."""
    if isinstance(data, Tensor):
        rows: Rows = TensorRows((data,), name)
    elif (
        isinstance(data, list | tuple)
        and data
        and all(isinstance(t, Tensor | None) for t in data)
        and any(t is not None for t in data)
    ):
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


def epoch_order(num: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in an epoch: a function of seed and epoch, so that resuming needs no state for it."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(num))


def batches_of(
    rows: Rows, batch_size: int, seed: int, epoch: int | None, *, drop_last: bool = False
) -> list[Tensor]:
    """The row numbers of each batch of an epoch; None: in a fixed order, for evaluation.

    `drop_last`: without a last batch that is smaller than the others, where the rows do not make their own batches.
    """
    device = getattr(rows, "device", "cpu")
    if callable(own := getattr(rows, "batches", None)):
        return [index.to(device) for index in own(batch_size, seed, epoch)]
    order = torch.arange(len(rows)) if epoch is None else epoch_order(len(rows), seed, epoch)
    batches = list(order.to(device).split(batch_size))
    return batches[:-1] if drop_last and len(batches[-1]) < batch_size else batches
