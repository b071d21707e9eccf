"""Arrays on file that may be larger than memory: rows are read, and cast, when they are asked for.

A tensor over a memory map of numpy's would be read by rows too, but not if its numbers are bytes or in another order
of bytes, and an array of HDF5 has no memory to share. Expressions over a whole tensor make temporaries of its size.
"""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.parts.door.arrays import tensor_like
from zoo.parts.door.casting import blocks, cast, refuse_loss


def is_on_file(value: Any) -> bool:
    """Tells whether an object is a memory-mapped array, or one that reads when it is indexed, as those of HDF5."""
    if isinstance(value, np.ndarray):
        # a view of a map, such as a slice or a reshaped one, keeps the map as its base
        while isinstance(value, np.ndarray):
            if isinstance(value, np.memmap):
                return True
            value = value.base
        return isinstance(value, mmap.mmap)
    if isinstance(value, Tensor) or hasattr(value, "to_numpy") or hasattr(value, "__array_interface__"):
        return False
    # chunks are how HDF5 and zarr store an array; arrays in memory have none
    return hasattr(value, "chunks") and all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


class OnFile:
    """Rows of an array on file, each read when it is asked for: `rows[5:9]`, `rows[torch.tensor([3, 1])]`.

    Args:
        array: a memory map of numpy's, or an array with `shape`, `dtype` and indices, as those of h5py.
        dtype: of the rows that are handed out; None: that of the array.
        device: of the rows that are handed out.
        name: of the argument, opens errors.

    Raises:
        TypeError, ValueError: as in `as_tensor`. Whole numbers and longer floats are read through once for it.
    """

    def __init__(self, array: Any, dtype: torch.dtype | None, device: torch.device | None, name: str) -> None:
        self.array, self.name = array, name
        first = self._rows(slice(0, 1))
        self.shape, self.ndim = torch.Size(array.shape), len(array.shape)
        self.device = torch.device("cpu") if device is None else device
        self.dtype = first.dtype if dtype is None else dtype
        if self.dtype != first.dtype:
            refuse_loss(self._rows, self.shape, (first.dtype, self.dtype), name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        """The rows of a slice or of row numbers, `(rows, ...)`; of a tuple, also a part of the next axis."""
        rows, *inner = index if isinstance(index, tuple) else (index,)
        if isinstance(rows, Tensor):
            rows = (rows.nonzero().flatten() if rows.dtype == torch.bool else rows).cpu().numpy()
        return self._rows(rows)[(slice(None), *inner)].to(self.device, self.dtype)

    def _rows(self, rows: Any) -> Tensor:
        if isinstance(rows, slice) or isinstance(self.array, np.ndarray):
            # a copy of a slice: a tensor that shares the map's memory would keep its pages
            found = np.array(self.array[rows])
        else:
            # HDF5 takes rising row numbers alone, each once
            each, places = np.unique(rows, return_inverse=True)
            found = np.asarray(self.array[each])[places]
        return cast(tensor_like(found, self.name)[0], None, None, self.name)


def stand_in(value: Any) -> Any:
    """A tensor without numbers that stands for an array on file in checks of shape and dtype; all else as it is."""
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, OnFile) else value


def in_pieces(value: Tensor | OnFile) -> Iterator[tuple[int, Tensor]]:
    """The rows in blocks of some megabytes, each with the number of its first row."""
    for rows in blocks(value.shape):
        yield rows.start, value[rows]
