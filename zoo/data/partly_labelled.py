"""Data of which few rows have labels: semi-supervised sets made from labelled ones."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import Split


@runtime_checkable
class LabelledRows(Protocol):
    """Rows for `fit` whose batches end with the labels, as those of `Binarized(split, labels=True)`.

    Attributes:
        labels: int64 `(N,)`, of all rows; -1 where unknown.
    """

    labels: Tensor | None

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Any, ...]: ...


class PartlyLabelled:
    """Rows `(x, y)` for `fit` in which `num_labels` rows keep their label and the others have y = -1.

    Every class keeps equally many labels; `seed` chooses which. Each batch has a fixed number of labelled rows: an
    epoch visits every unlabelled row once, in a new order, and goes through the labelled rows in turns, each turn in a
    new order. In an epoch the visits of two labelled rows differ by one at most. The last batch of an epoch may have
    fewer unlabelled rows. Batches depend on the seed and the epoch of the training alone, so a resumed training sees
    the same ones.

    Args:
        data: a `Split` (x are its grey images), a pair of tensors `(x, y)`, or rows whose batches end with the labels:
            `Binarized(split, labels=True)`, or your own with an attribute `labels`.
        num_labels: N_l, a multiple of the number of classes.
        seed: of the choice of labels, apart from that of the training.
        per_batch: labelled rows in each batch; half of the batch by default.

    Attributes:
        labels: int64 `(N,)`, -1 where the label is not kept.
        labelled: int64 `(num_labels,)`, the numbers of the rows that keep theirs, in ascending order:
            `split[labelled]` is what a classifier on the same labels is given.

    Raises:
        ValueError: the data have no labels, of another shape or dtype; `num_labels` is no multiple of the number of
            classes, or more than a class has; batches too small for `per_batch`.
        TypeError: `data` are of another kind.

    Example:
        >>> from zoo.data import Binarized, PartlyLabelled, load
        >>> digits = load("digits").train
        >>> few = PartlyLabelled(Binarized(digits, labels=True), num_labels=50, seed=0)
        >>> (few.labels >= 0).sum().item(), digits[few.labelled].labels.bincount().tolist()
        (50, [5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """

    def __init__(
        self,
        data: Split | LabelledRows | Sequence[Tensor],
        num_labels: int,
        seed: int,
        *,
        per_batch: int | None = None,
    ) -> None:
        self.rows: LabelledRows = _Tensors(data.images, data.labels) if isinstance(data, Split) else _rows_of(data)
        known = _check_labels(self.rows)
        classes = known[known >= 0].unique()
        for name, value, least in (("num_labels", num_labels, len(classes)), ("per_batch", per_batch, 1)):
            # True is an integer to Python; numpy's integers are to `Integral` as well
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise ValueError(f"PartlyLabelled: {name} must be an integer >= {least}, got {value!r}")
        if num_labels % len(classes):
            raise ValueError(
                f"PartlyLabelled: num_labels must be a multiple of the {len(classes)} classes, which have equally many "
                f"labels each; got {num_labels}"
            )
        self.labelled = _balanced(known, classes, num_labels // len(classes), seed)
        self.labels = torch.full_like(known, -1).index_copy_(0, self.labelled, known[self.labelled])
        self.per_batch = per_batch

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, seed: int, epoch: int | None) -> list[Tensor]:
        """The row numbers of each batch of an epoch, the labelled ones first; `epoch=None`: in a fixed order.

        Raises:
            ValueError: `per_batch` leaves no room for other rows.
        """
        others = (self.labels < 0).nonzero()[:, 0]
        # a stream of each epoch's own: a resumed training draws the epochs that are left as the first run would have
        random = None if epoch is None else np.random.default_rng((seed, epoch))
        if not len(others):
            return list(_shuffled(self.labelled, random).split(batch_size))
        each = batch_size // 2 if self.per_batch is None else self.per_batch
        if not 0 < each < batch_size:
            raise ValueError(
                f"batch_size {batch_size}: has no room for labelled and unlabelled rows with {each} labelled ones in "
                "each batch (`per_batch` of PartlyLabelled)"
            )
        unlabelled = _shuffled(others, random).split(batch_size - each)
        turns = -(-len(unlabelled) * each // len(self.labelled))
        labelled = torch.cat([_shuffled(self.labelled, random) for _ in range(turns)]).split(each)
        return [torch.cat(both) for both in zip(labelled, unlabelled, strict=False)]

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The tensors of the rows `index`, with labels y at the end, -1 where unknown."""
        *arguments, _ = self.rows.batch(index, generator)
        return (*arguments, self.labels.index_select(0, index.to(self.labels.device)))


class _Tensors:
    def __init__(self, x: Tensor, labels: Tensor | None) -> None:
        self.x, self.labels = x, labels

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, None]:
        return self.x.index_select(0, index.to(self.x.device)), None


def _rows_of(data: Any) -> LabelledRows:
    if isinstance(data, list | tuple) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
        return _Tensors(*data)
    if isinstance(data, LabelledRows):
        return data
    raise TypeError(
        "PartlyLabelled: expected a Split, tensors (x, y), or rows with labels such as Binarized(split, labels=True), "
        f"got {type(data).__name__}"
    )


def _check_labels(rows: LabelledRows) -> Tensor:
    labels = rows.labels
    if labels is None:
        raise ValueError(f"PartlyLabelled: the data have no labels ({type(rows).__name__.lstrip('_')})")
    if labels.dtype != torch.int64 or labels.shape != (len(rows),):
        raise ValueError(
            f"PartlyLabelled: expected int64 labels of shape ({len(rows)},), got {labels.dtype}, {tuple(labels.shape)}"
        )
    if not (labels >= 0).any():
        raise ValueError("PartlyLabelled: every label is unknown (-1)")
    return labels


def _balanced(labels: Tensor, classes: Tensor, each: int, seed: int) -> Tensor:
    """The numbers of `each` rows of every class, drawn without replacement, in ascending order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    chosen = []
    for label in classes.tolist():
        found = order[labels[order] == label]
        if len(found) < each:
            raise ValueError(f"PartlyLabelled: class {label} has {len(found)} rows, fewer than {each} labels")
        chosen.append(found[:each])
    return torch.cat(chosen).sort().values


def _shuffled(rows: Tensor, random: np.random.Generator | None) -> Tensor:
    return rows if random is None else rows[torch.from_numpy(random.permutation(len(rows)))]
