"""One array, table or list of a caller's as a tensor that shares its memory where it can, in the dtype that it has."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.parts.checks.words import listed, no_tensor
from zoo.parts.door.tables import NUMBERS, is_column, is_table, numbers_of_column, numbers_of_table


def tensor_like(value: Any, name: str) -> tuple[Tensor, list[str] | None]:
    """The numbers of an array, table or list, in their own dtype, and the names of a table's columns.

    Args:
        name: of the argument, opens errors.

    Raises:
        TypeError: no numbers; names dtype and column.
        ValueError: a list of rows of unequal lengths.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got one of layout {value.layout}; to_dense() makes one")
        return value, None
    if isinstance(value, np.ndarray):
        return _of_array(value, name), None
    if is_table(value):
        numbers, columns = numbers_of_table(value, name)
        return _of_array(numbers, name), columns
    if is_column(value):
        # polars' series have an empty name where pandas' have none
        label = f"the series {value.name!r}" if value.name not in (None, "") else "the series"
        return _of_array(numbers_of_column(value, f"{name}: {label}"), name), None
    if isinstance(value, list | tuple):
        return _of_list(value, name), None
    # jax and cupy; before numpy's protocol, which would fetch their numbers from the device
    if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
        return torch.from_dlpack(value), None
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _of_array(np.asarray(value), name), None
    raise no_tensor(value, name)


def _of_array(array: np.ndarray, name: str) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        # numpy forgets the mask on the way to a plain array, and entries that are missing would count as seen
        array = np.ma.filled(array.astype(np.float64), np.nan) if np.ma.is_masked(array) else array.data
    if array.dtype.kind not in NUMBERS:
        raise _no_numbers(array, name)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(step < 0 or step % array.itemsize for step in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # nothing here writes into data, so that arrays which cannot be written to are as good as others
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _of_list(value: list | tuple, name: str) -> Tensor:
    # row by row, since numpy would look into a table or tensor entry by entry
    if value and all(hasattr(row, "shape") for row in value):
        rows = [tensor_like(row, f"{name}[{i}]")[0] for i, row in enumerate(value)]
        if len({row.shape for row in rows}) > 1:
            raise _ragged([len(row) if row.ndim else 0 for row in rows], name)
        return torch.stack(rows)
    try:
        return _of_array(np.array(value), name)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise _ragged([len(row) if hasattr(row, "__len__") else 0 for row in value], name) from error


def _ragged(lengths: list[int], name: str) -> ValueError:
    return ValueError(
        f"{name}: a list of {len(lengths)} rows of unequal shapes (lengths {listed(lengths)}) is no array; sequences "
        "of unequal lengths are zoo.data.Sequences(frames end to end, lengths, columns), whose `values` and `mask` all "
        "functions take"
    )


def _no_numbers(array: np.ndarray, name: str) -> TypeError:
    kind, hint = array.dtype.kind, "make numbers of it first"
    if kind == "c":
        hint = "give real and imaginary parts as columns of their own"
    elif kind in "mM":
        hint = "times as numbers are (t - t[0]) / numpy.timedelta64(1, 's')"
    elif kind == "O":
        hint = "astype(float) makes numbers of objects where all of them are"
    elif array.dtype.names:
        hint = f"take its fields {listed([repr(field) for field in array.dtype.names])} as columns"
    return TypeError(f"{name}: expected numbers, got an array of dtype {array.dtype}; {hint}")
