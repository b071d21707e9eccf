"""The choice of an engine: of two modules with the same functions, loops compiled by numba or batched PyTorch."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


def engine_of(package: str, device: torch.device) -> ModuleType:
    """The module that runs the recursions: compiled on the CPU where numba is installed, else PyTorch.

    Args:
        package: name of the package that holds the modules `compiled` and `pytorch`.
        device: of the tensors.
    """
    if device.type == "cpu" and has_numba():
        # numba takes a second to import
        return import_module(f"{package}.compiled")
    return import_module(f"{package}.pytorch")


@cache  # the packages of a process do not change, and a search for numba takes as long as a short recursion
def has_numba() -> bool:
    """Tells whether numba is installed."""
    return find_spec("numba") is not None
