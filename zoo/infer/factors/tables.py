"""Codes and factors as the scores take them, and the table that the scores give back."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class FactorScores:
    """A score for each factor and the table that it was made from; `print` shows both.

    Attributes:
        score: the mean over the factors.
        per_factor: `(f,)`.
        table: an entry for each code and factor, `(d, f)`.
    """

    score: float
    per_factor: np.ndarray
    table: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return table_text(self.table, {"score": self.per_factor}) + f"\nmean    {self.score:.3f}"


def table_text(table: np.ndarray, per_factor: dict[str, np.ndarray]) -> str:
    """The lines of a table `(d, f)`, one for each code, with lines of further numbers for each factor below."""
    rows = {f"code {i}": row for i, row in enumerate(table)} | per_factor
    width = max(map(len, rows))
    head = " " * width + "".join(f"  factor {j:<2}" for j in range(table.shape[1]))
    return "\n".join([head, *(f"{name:{width}}" + "".join(f"{n:11.3f}" for n in row) for name, row in rows.items())])


def codes_and_factors(codes: Tensor | np.ndarray, factors: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(N, d)` as float64 and factors `(N, f)` as the numbers 0, 1, ... of their values in order.

    Raises:
        ValueError: no two axes; other rows of codes than of factors; fewer than two codes or factors; entries that are
            not finite; a factor of one value, or with a value of its own in each row.
    """
    arrays = {}
    for name, given in {"codes": codes, "factors": factors}.items():
        array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] < 2 or not len(array):
            raise ValueError(f"{name}: expected (N, columns) with two or more columns, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name}: expected finite numbers, row {int(np.argwhere(~np.isfinite(array))[0, 0])} has others"
            )
        arrays[name] = array
    if len(arrays["codes"]) != len(arrays["factors"]):
        raise ValueError(
            f"expected a code for each row of factors, got {len(arrays['codes'])}, {len(arrays['factors'])}"
        )
    numbered = np.stack([np.unique(column, return_inverse=True)[1] for column in arrays["factors"].T], 1)
    if constant := np.flatnonzero(numbered.max(0) == 0).tolist():
        raise ValueError(f"factors: columns {constant} have one value each, and nothing can be learnt of them")
    if continuous := np.flatnonzero(numbered.max(0) == len(numbered) - 1).tolist():
        raise ValueError(
            f"factors: columns {continuous} have a value of its own in each row; cut continuous factors into bins"
        )
    return arrays["codes"], numbered


def gap_between_best(table: np.ndarray) -> np.ndarray:
    """The largest entry of each column less the second largest, `(f,)`."""
    second, best = np.sort(table, 0)[-2:]
    return best - second
