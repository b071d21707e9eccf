"""Rows of a `Dataset` or `DataLoader` of torch: whatever it yields for a row becomes the arguments of a pair."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

# rows that are asked for at a time where all of them are wanted
SOME = 256


def is_collection(value: Any) -> bool:
    """Tells whether an object is a `Dataset` or a `DataLoader` of torch."""
    return isinstance(value, Dataset | DataLoader)


def has_rows(collection: Any) -> bool:
    """Tells whether rows can be asked for by their number.

    An `IterableDataset` gives them in its own order alone, and so does a loader without batches of its own, whose data
    set makes them.
    """
    if isinstance(collection, DataLoader) and collection.batch_sampler is None:
        return False
    dataset = collection.dataset if isinstance(collection, DataLoader) else collection
    return hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def collated(items: list[Any]) -> Any:
    """One batch of rows, as `default_collate` makes it; pictures of Pillow are arrays of bytes.

    Raises:
        ValueError: rows of unequal shapes.
        TypeError: rows that are no numbers.
    """
    try:
        return default_collate([_without_pictures(item) for item in items])
    except RuntimeError as error:
        raise ValueError(f"the data set's rows have unequal shapes; a collate_fn can pad them ({error})") from error


def _without_pictures(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {key: _without_pictures(value) for key, value in item.items()}
    if isinstance(item, tuple | list):
        return [_without_pictures(value) for value in item]
    if isinstance(item, str | bytes):
        raise TypeError(f"the data set's rows hold words, such as {item!r}; expected numbers alone")
    # `default_collate` knows arrays of numpy, and pictures state that they are like them
    picture = hasattr(item, "__array_interface__") and not isinstance(item, np.ndarray | np.generic)
    return np.array(item) if picture else item


def yielded(found: Any, names: Sequence[str], more: bool, name: str) -> tuple[Any, ...]:
    """A batch, as a collection yields it, as the arguments of a pair.

    Args:
        found: one argument, a tuple or list of them, or a dictionary by their names.
        names: of the pair's arguments, in order.
        more: the pair takes arguments besides these.
        name: of the collection, opens errors.

    Raises:
        ValueError: a dictionary with a name that the pair does not take, or without its first; more arguments than
            the pair takes.
    """
    if isinstance(found, Mapping):
        strange = [key for key in found if key not in names]
        if strange or names[0] not in found:
            raise ValueError(f"{name}: yields {list(found)}, the model takes {list(names)}; a collate_fn can rename "
                             "them or leave them out")  # fmt: skip
        last = max(names.index(key) for key in found)
        return tuple([found.get(key) for key in names[: last + 1]])
    found = tuple(found) if isinstance(found, tuple | list) else (found,)
    if not more and len(found) > len(names):
        raise ValueError(
            f"{name}: yields {len(found)} tensors for a row, the model takes {len(names)} ({', '.join(names)}); leave "
            "the others out, labels say, by a collate_fn or a Dataset of your own"
        )
    return found


def loaded(collection: Any, names: Sequence[str], more: bool, name: str) -> tuple[Any, ...]:
    """All rows of a collection, in its order, as the arguments of a pair; a loader's sampler has no say.

    Raises:
        ValueError: no rows; as `yielded`.
    """
    batches = [yielded(batch, names, more, name) for batch in _batches(collection)]
    if not batches:
        raise ValueError(f"{name}: {type(collection).__name__} yields no rows")
    return tuple([None if parts[0] is None else torch.cat([torch.as_tensor(p) for p in parts])
                  for parts in zip(*batches, strict=True)])  # fmt: skip


def _batches(collection: Any) -> Iterator[Any]:
    if not has_rows(collection):
        loader: Iterable = collection if isinstance(collection, DataLoader) else DataLoader(collection, SOME)
        yield from loader
        return
    dataset, collate = rows_and_collate(collection)
    for start in range(0, len(dataset), SOME):
        yield collate([dataset[i] for i in range(start, min(start + SOME, len(dataset)))])


def rows_and_collate(collection: Any) -> tuple[Any, Any]:
    """The data set behind a collection, and the function that makes one batch of some of its rows."""
    if not isinstance(collection, DataLoader):
        return collection, collated
    # torch's own refuses pictures; a caller's function is his choice
    own = collection.collate_fn is not default_collate
    return collection.dataset, collection.collate_fn if own else collated
