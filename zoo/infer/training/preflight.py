"""Refusals of `fit` that need no data: arguments that make no sense, optimisers and schedules of another kind."""

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import nn


def check_arguments(
    *,
    loss: Any,
    whole: dict[str, Any],
    steps: int | None,
    epochs: int | None,
    clip: float | None,
    held_out: Any,
    out: Any,
    needs_out: dict[str, bool],
    num_rows: int,
) -> None:
    """Refuses arguments of `fit` that make no sense, alone or together.

    Args:
        whole: name -> value and least value, of the arguments that must be integers.
        held_out: the rows of `validation`; None without.
        needs_out: arguments that need the folder `out`: name -> True if the caller has set the argument.
        num_rows: number of rows of the data.
        loss, steps, epochs, clip, out: as in `fit`.

    Raises:
        TypeError: `loss` is no module, or an objective without its pair.
        ValueError: any other; names the argument.
    """
    if isinstance(loss, pyro.infer.ELBO):
        name = type(loss).__name__
        raise TypeError(f"loss: {name} has no pair yet; expected {name}(...)(model, guide)")
    if not isinstance(loss, nn.Module):
        raise TypeError(f"loss: expected a torch.nn.Module, objective(model, guide), got {type(loss).__name__}")
    if (steps is None) == (epochs is None):
        raise ValueError(f"give either steps or epochs, got steps={steps} and epochs={epochs}")
    for name, (value, least) in whole.items():
        # True is an integer to Python; numpy's integers are to `Integral` as well.
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < least):
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    # Not `clip <= 0`, which a NaN passes.
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be a positive number, got {clip!r}")
    batch_size, patience = whole["batch_size"][0], whole["patience"][0]
    if batch_size > num_rows:
        raise ValueError(f"batch_size {batch_size} is larger than the data, {num_rows} rows")
    if patience is not None and held_out is None:
        raise ValueError("patience counts epochs without a better validation loss: give validation=")
    for name, needed in needs_out.items():
        if needed and out is None:
            raise ValueError(f"{name} needs the folder of the training: give out=")


def optimizer_of(make: Any, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a constructor makes for the trained parameters.

    Raises:
        TypeError: `make` is no such constructor; it makes something else, or an optimiser that wants the loss again.
        ValueError: the optimiser holds other parameters.
    """
    wanted = "a constructor parameters -> torch.optim.Optimizer, such as partial(torch.optim.Adam, lr=1e-3)"
    if isinstance(make, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected {wanted}, got a {type(make).__name__} that is made already")
    if isinstance(make, PyroOptim) or getattr(make, "__module__", "").startswith("pyro.optim"):
        raise TypeError(f"optimizer: expected {wanted}, got one of pyro.optim, which is for pyro.infer.SVI")
    if not callable(make):
        raise TypeError(f"optimizer: expected {wanted}, got {make!r}")
    made = _made(make, parameters, f"optimizer: expected {wanted}")
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected {wanted}, it made a {type(made).__name__}")
    # An optimiser that leaves parameters out looks like a training that does not converge; and one of an earlier pair
    # would change nothing at all.
    held = {id(p) for group in made.param_groups for p in group["params"]}
    if held != {id(p) for p in parameters}:
        raise ValueError(
            f"optimizer: {type(made).__name__} holds other parameters than the {len(parameters)} of the loss that "
            "require a gradient; to keep a parameter fixed, call its requires_grad_(False)"
        )
    if lacking := _needed(made.step):
        raise TypeError(
            f"optimizer: {type(made).__name__} wants {lacking} at each step, a loss that can be evaluated again, which "
            "draws of a guide are not; expected one that takes the gradient alone, such as Adam"
        )
    return made


def scheduler_of(make: Any, optimizer: torch.optim.Optimizer) -> Any:
    """The learning-rate schedule that a constructor makes for an optimiser; None for None.

    Raises:
        TypeError: `make` is no such constructor; it makes something else, or a schedule that wants more than the step.
        ValueError: the schedule is that of another optimiser.
    """
    wanted = "a constructor optimizer -> LRScheduler, such as partial(lr_scheduler.ExponentialLR, gamma=0.99)"
    if make is None:
        return None
    if isinstance(make, torch.optim.lr_scheduler.LRScheduler | PyroOptim):
        raise TypeError(f"schedule: expected {wanted}, got a {type(make).__name__} that is made already")
    if not callable(make):
        raise TypeError(f"schedule: expected {wanted}, got {make!r}")
    made = _made(make, optimizer, f"schedule: expected {wanted}")
    if not callable(getattr(made, "step", None)):
        raise TypeError(f"schedule: expected {wanted}, it made a {type(made).__name__}")
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise ValueError(f"schedule: {type(made).__name__} is that of another optimizer; expected {wanted}")
    if lacking := _needed(made.step):
        raise TypeError(
            f"schedule: {type(made).__name__} wants {lacking} at each step; expected one that counts steps alone"
        )
    return made


def _made(make: Callable, argument: Any, expected: str) -> Any:
    # Catches every error, since the constructor is the caller's; most often it is a partial that lacks an option.
    try:
        return make(argument)
    except Exception as error:
        name = getattr(make, "__name__", type(make).__name__)
        raise TypeError(f"{expected}; {name} of that alone failed ({type(error).__name__}: {error})") from error


def _needed(method: Callable) -> str:
    """The names of the arguments that a method cannot do without."""
    free = inspect.Parameter.empty
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return ", ".join(p.name for p in parameters if p.default is free and p.kind not in kinds)
