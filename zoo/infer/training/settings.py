"""The settings of a training in words and numbers: config.json shows them, and a resumed training compares them."""

import functools
import inspect
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import pyro
import torch
from torch import nn

from zoo.infer.training.step.batcher import Batcher


@dataclass(frozen=True)
class Options:
    """The arguments of `fit` that a resumed training must share with the one that it goes on with."""

    batch_size: int
    seed: int
    optimizer: Callable[[Any], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer], Any] | None
    clip: float | None
    compile: bool
    drop_last: bool
    groups: Mapping[str, Mapping[str, Any]] | None
    average: float | None


def settings_of(loss: nn.Module, batcher: Batcher, held_out: Batcher | None, args: tuple, options: Options) -> dict:
    """The settings of a training in JSON's types, without those of optimiser and schedule.

    Args:
        args: the arguments of one batch, for their dtypes and shapes.
    """
    parts = batcher.parts
    return {
        "data": {
            "rows": len(batcher.rows),
            "batch": [None if t is None else [str(t.dtype), *t.shape[1:]] for t in args],
        },
        "validation": None if held_out is None else len(held_out.rows),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "clip": describe(options.clip),
        "compile": options.compile,
        "processes": batcher.parallel.world,
        "objective": describe(loss if parts.objective is None else parts.objective),
        "model": describe(parts.model),
        "guide": describe(parts.guide),
    }


def describe(value: Any) -> Any:
    """A value in JSON's types: numbers and words as they are, objectives with their options, all else by name.

    No memory address is part of it, since a resumed training compares it with that of another process.
    """
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no infinity, and Python's way of writing it makes a file that strict readers refuse.
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else f"tensor {list(value.shape)}"
    if isinstance(value, functools.partial):
        return {"function": describe(value.func), "args": describe(value.args), **describe(value.keywords)}
    if isinstance(value, pyro.infer.ELBO):
        names = [n for n in inspect.signature(type(value)).parameters if hasattr(value, n)]
        # only where it is set: checkpoints from before it existed stay valid
        names = [n for n in names if n != "num_data" or value.num_data is not None]
        return {"class": type(value).__name__, **{n: describe(getattr(value, n)) for n in names}}
    return getattr(value, "__qualname__", type(value).__qualname__)


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Class and options of an optimiser. Call it before a schedule changes the learning rate."""
    groups = [{k: describe(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {"class": type(optimizer).__name__, "groups": groups}


def describe_schedule(schedule: Any) -> dict[str, Any] | None:
    """Class and options of a schedule. Call it before the first step.

    Its state holds them, and so covers a constructor of any kind; entries with an underscore are torch's own, which may
    change from version to version, but for the parts of a schedule that is a list of others.
    """
    if schedule is None:
        return None
    state = {name: value for name, value in schedule.state_dict().items() if not name.startswith("_")}
    parts = [describe_schedule(part) for part in getattr(schedule, "_schedulers", ())]
    return {"class": type(schedule).__name__, **describe(state), **({"parts": parts} if parts else {})}


def versions() -> dict[str, str]:
    """Versions of the software that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
    }
