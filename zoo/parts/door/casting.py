"""Numbers in the dtype of a pair's parameters, where the step from their own loses nothing that a model could use.

Whole numbers, bools and shorter floats become longer floats exactly, whole numbers as far as the float counts one by
one: 2^24 for float32. A longer float is rounded, and the loss is measured by column against the column's own range:
measurements keep their digits, while seconds since 1970, or small differences between large numbers, would not.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.parts.door.arrays import tensor_like

# bytes of one block of rows that is looked at; larger blocks are slower, not faster
BLOCK = 2**24
# the largest error of a rounded number, as a share of the range of its column
LOST = 1e-3

# dtypes for which torch has few functions
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)

Columns = Sequence[str] | None


def as_tensor(
    value: Any, dtype: torch.dtype | None = None, device: torch.device | None = None, name: str = "x"
) -> Tensor:
    """An array, table, series or list as a tensor; a tensor that is right already is returned itself.

    Args:
        value: an array of numpy or of anything that numpy can read, a table or series of pandas or polars, nested
            lists, a tensor. Missing entries of a table are NaN.
        dtype: floating; None: as it is.
        device: None: where it is.
        name: of the argument, opens errors.

    Raises:
        TypeError: no numbers (words, dates, objects, complex numbers); names dtype and column.
        ValueError: numbers that the dtype would not tell apart; names the column. Rows of unequal lengths.
    """
    found, columns = tensor_like(value, name)
    return cast(found, dtype, device, name, columns)


def cast(
    found: Tensor, dtype: torch.dtype | None, device: torch.device | None, name: str, columns: Columns = None
) -> Tensor:
    """A tensor in another dtype and on another device; `Raises` as in `as_tensor`."""
    if found.dtype.is_complex:
        raise TypeError(f"{name}: expected real numbers, got {found.dtype}; give real and imaginary parts as columns")
    if found.dtype in UNSIGNED:
        found = found.to(torch.int64)
        if found.numel() and found.min() < 0:
            raise ValueError(f"{name}: whole numbers beyond 2^63 - 1")
    if dtype is not None and found.dtype != dtype:
        if dtype.is_floating_point:
            refuse_loss(lambda rows: found[rows], found.shape, (found.dtype, dtype), name, columns)
        found = found.to(dtype)
    return found if device is None else found.to(device)


def blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Slices of rows of an array of this shape, of about `BLOCK` bytes as float64."""
    each = max(1, BLOCK // max(8 * int(torch.Size(shape[1:]).numel()), 1))
    for start in range(0, shape[0], each):
        yield slice(start, min(start + each, shape[0]))


def refuse_loss(
    rows_of: Callable[[slice], Tensor],
    shape: Sequence[int],
    dtypes: tuple[torch.dtype, torch.dtype],
    name: str,
    columns: Columns = None,
) -> None:
    """Refuses numbers that a cast would not tell apart, a block of rows at a time.

    Args:
        rows_of: slice of rows -> these rows as they are.
        shape: of all rows.
        dtypes: of the numbers as they are, and the floating one to come.
        columns: names of the columns.

    Raises:
        ValueError: names the column, or the first whole number that is too large.
    """
    before, after = dtypes
    if before == torch.bool or not shape or 0 in shape:
        return
    if not before.is_floating_point:
        # of the types of one or two bytes a float32 holds all numbers, and they need not be looked at
        if (most := int(2 / torch.finfo(after).eps)) < torch.iinfo(before).max:
            for rows in blocks(shape):
                _refuse_large(rows_of(rows), most, rows.start, after, name, columns)
    elif torch.finfo(before).eps < torch.finfo(after).eps or torch.finfo(before).max > torch.finfo(after).max:
        spans = torch.stack([_span(rows_of(rows), after) for rows in blocks(shape)])
        _refuse_rounded(spans, after, name, columns)


def _refuse_large(some: Tensor, most: int, start: int, dtype: torch.dtype, name: str, columns: Columns) -> None:
    large = (some > most) | (some < -most)
    if large.any():
        place = large.nonzero()[0].tolist()
        where = f", {_column(place[-1], columns)}" if some.dim() > 1 else ""
        raise ValueError(
            f"{name}: {int(some[tuple(place)])} in row {place[0] + start}{where}, counted from 0: {dtype} counts one "
            f"by one up to {most}; subtract a constant, or train a model in float64 (model.double())"
        )


def _span(some: Tensor, dtype: torch.dtype) -> Tensor:
    """Least, minus the largest, minus the largest error of each column's finite numbers, `(3, columns)`."""
    some = some.detach().reshape(-1, some.shape[-1] if some.dim() > 1 else 1)
    finite = some.isfinite()
    error = (some.to(dtype).to(some.dtype) - some).abs()
    low, high = (torch.where(finite, some, at) for at in (torch.inf, -torch.inf))
    # largest ones with the other sign: one minimum over all blocks then finds all three
    return torch.stack([low.amin(0), -high.amax(0), -torch.where(finite, error, 0.0).amax(0)]).double()


def _refuse_rounded(spans: Tensor, dtype: torch.dtype, name: str, columns: Columns) -> None:
    low, high, error = spans.amin(0) * spans.new_tensor([[1.0], [-1.0], [-1.0]])
    largest, spread = torch.maximum(low.abs(), high.abs()), high - low
    # entries of a constant column may differ by the rounding of a float64
    spread = torch.where(spread <= 64 * torch.finfo(torch.double).eps * largest, largest, spread)
    bad = (error > LOST * spread).nonzero().flatten().tolist()
    if bad:
        at = bad[0]
        raise ValueError(
            f"{name}: {_column(at, columns)} would lose its differences in {dtype}: numbers from {low[at]:.10g} to "
            f"{high[at]:.10g}, rounded by up to {error[at]:.3g}; subtract a constant or scale it, or train a model in "
            "float64 (model.double())"
        )


def _column(number: int, columns: Columns) -> str:
    return f"column {number}" if columns is None else f"column {columns[number]!r}"
