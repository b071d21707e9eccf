"""Refusals of `fit` that need no data: arguments that make no sense, alone or together."""

from numbers import Integral, Real
from typing import Any

import pyro
from torch import nn


def check_arguments(
    *,
    loss: Any,
    whole: dict[str, Any],
    steps: int | None,
    epochs: int | None,
    clip: float | None,
    average: float | None,
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
        loss, steps, epochs, clip, average, out: as in `fit`.

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
    # True is a number to Python, and would be an average that never moves.
    if average is not None and (isinstance(average, bool) or not isinstance(average, Real) or not 0 < average < 1):
        raise ValueError(f"average must be a number between 0 and 1, such as 0.999, got {average!r}")
    batch_size, patience = whole["batch_size"][0], whole["patience"][0]
    if batch_size is not None and batch_size > num_rows:
        raise ValueError(f"batch_size {batch_size} is larger than the data, {num_rows} rows")
    if patience is not None and held_out is None:
        raise ValueError("patience counts epochs without a better validation loss: give validation=")
    for name, needed in needs_out.items():
        if needed and out is None:
            raise ValueError(f"{name} needs the folder of the training: give out=")
