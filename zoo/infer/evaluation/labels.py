"""Evaluation of a classifier q(y | x) on data whose labels are known."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.infer.sites.programs import batch_rows
from zoo.parts.aside import held, seeded
from zoo.parts.checks import listed
from zoo.parts.door import entered

__all__ = ["Predicts", "classification_error"]

# rows of one call of a classifier, which may take the memory of rows times draws
ROWS = 1000


@runtime_checkable
class Predicts(Protocol):
    """A guide that states the probabilities of the classes, `(N, C)`."""

    def predict(self, x: Tensor, **kwargs: Any) -> Tensor: ...


def classification_error(guide: Any, x: Any, y: Any = None, *, seed: int | None = None, **kwargs: Any) -> float:
    """The share of the data whose most probable class under q(y | x) is not their label, 0 to 1.

    The guide predicts in evaluation mode, without gradients, 1,000 rows at a time.

    Args:
        guide: offers `predict(x)`, the probabilities of the classes, `(N, C)`.
        x: data, in any form that `fit` takes, data on file among them.
        y: their labels, integers 0 .. C - 1, `(N,)`; left out where x is a `Dataset` that yields both.
        seed: starts a random stream of the call's own, for a classifier that draws; None uses the caller's.
        **kwargs: further arguments of `predict`, such as a mask or a condition, a row for each of x.

    Raises:
        TypeError: the guide has no `predict`.
        ValueError: no data; labels of another shape or dtype, or of classes that there are not; probabilities of
            another shape.

    Example:
        >>> import torch
        >>> from zoo.infer import classification_error
        >>> class Thirds:
        ...     def predict(self, x):
        ...         return torch.tensor([[0.2, 0.5, 0.3]]).expand(len(x), 3)
        >>> classification_error(Thirds(), torch.zeros(4, 2), torch.tensor([0, 1, 1, 2]))
        0.5
    """
    if not isinstance(guide, Predicts):
        raise TypeError(f"{type(guide).__name__} has no predict(x), which gives the probabilities of the classes")
    x, labels, kwargs = entered((guide,), x, () if y is None else (y,), kwargs, names=("x", "y"), on_file=True)
    if not labels:
        raise ValueError("y: missing, and x yields none; give the label of each row of x")
    y = labels[0][:]
    if y.is_floating_point() or y.shape != (len(x),) or not len(x):
        raise ValueError(f"y: expected an integer for each of {len(x)} rows of x, got {y.dtype}, {tuple(y.shape)}")
    wrong = 0
    with held(guide), seeded(seed), torch.no_grad():
        for start in range(0, len(x), ROWS):
            (rows,), named = batch_rows(x, (), kwargs, slice(start, start + ROWS))
            known = y[start : start + ROWS]
            probabilities = guide.predict(rows, **named)
            if probabilities.dim() != 2 or len(probabilities) != len(rows):
                raise ValueError(
                    f"predict(x) of {type(guide).__name__}: expected probabilities of shape ({len(rows)}, C), got "
                    f"{tuple(probabilities.shape)}"
                )
            classes = probabilities.shape[1]
            strange = ((known < 0) | (known >= classes)).nonzero()[:, 0] + start
            if len(strange):
                raise ValueError(f"y: expected classes 0 to {classes - 1}, others in rows {listed(strange.tolist())}")
            wrong += int((probabilities.argmax(-1) != known).sum())
    return wrong / len(x)
