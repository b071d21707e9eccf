"""A training's settings in words and numbers: what config.json shows, and what a resumed training compares."""

import functools
import inspect
import math
import platform
from typing import Any

import numpy
import pyro
import torch


def describe(value: Any) -> Any:
    """`value` in JSON's types, without addresses: numbers and words, objectives with their options, others by name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else f"tensor {list(value.shape)}"
    if isinstance(value, functools.partial):
        return {"function": describe(value.func), "args": describe(value.args), **describe(value.keywords)}
    if isinstance(value, pyro.infer.ELBO):
        names = [n for n in inspect.signature(type(value)).parameters if hasattr(value, n)]
        return {"class": type(value).__name__, **{n: describe(getattr(value, n)) for n in names}}
    return getattr(value, "__qualname__", type(value).__qualname__)


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Class and options of an optimiser. Call it before a schedule changes the learning rate."""
    groups = [{k: describe(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {"class": type(optimizer).__name__, "groups": groups}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
    }
