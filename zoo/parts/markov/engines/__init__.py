"""The engines of the recursions, modules with the same four functions: loops compiled by numba, or batched PyTorch.

Both take `initial` `(K,)`, `transition` `(K, K)` and `scores` `(N, T, K)`, the tensors of a `Chain` with one batch
axis, and normalise at each step: the logarithms of a long sequence would otherwise grow until rounding hides their
differences, in float32 within some thousand frames.
"""

from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

from zoo.parts.markov.engines import pytorch


def engine_for(device: torch.device) -> ModuleType:
    """The module that runs the recursions: compiled on the CPU where numba is installed, else PyTorch."""
    return _compiled() or pytorch if device.type == "cpu" else pytorch


@cache  # the packages of a process do not change, and a search for numba takes as long as a short recursion
def _compiled() -> ModuleType | None:
    if find_spec("numba") is None:
        return None
    from zoo.parts.markov.engines import compiled  # here, since numba takes a second to import

    return compiled
