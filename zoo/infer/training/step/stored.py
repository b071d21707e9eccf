"""States as they go into a checkpoint, which is read back without running any code of the file's (`weights_only`)."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint


def storable(state: Any, owner: str) -> Any:
    """A state with Python's numbers in place of numpy's.

    A learning rate from `numpy.logspace`, or a mean in a callback, is as good as any other number; but the file would
    be refused when the training is resumed, hours later.

    Args:
        state: a result of `state_dict`.
        owner: whose it is, for errors.

    Raises:
        ValueError: it holds objects that `torch.load(weights_only=True)` does not read; names their classes.
    """
    state = _mapped(state, lambda leaf: leaf.item() if isinstance(leaf, np.generic) else leaf)
    # Tensors are what takes time to write, and can always be read.
    rest = _mapped(state, lambda leaf: None if type(leaf) is Tensor else leaf)
    try:
        torch.save(rest, file := io.BytesIO())
        file.seek(0)
        found = ", ".join(sorted(get_unsafe_globals_in_checkpoint(file)))
    except Exception as error:
        # The objects are the caller's, and each may fail in its own way.
        raise ValueError(f"{owner}: its state cannot be saved ({type(error).__name__}: {error})") from error
    if found:
        raise ValueError(
            f"{owner}: its state can be saved, but not be loaded safely, because of {found}; expected tensors, "
            "numbers, words, lists and dictionaries alone"
        )
    return state


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if type(value) is dict:
        return {_mapped(k, leaf): _mapped(v, leaf) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(v, leaf) for v in value)
    return leaf(value)
