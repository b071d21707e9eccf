"""Expectation maximisation for any model that states its two steps; the log-likelihood is checked at every one."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from zoo.parts.checks import check_counts, check_least, listed
from zoo.parts.door import entered, is_collection, is_data


class EMModel(Protocol):
    """A model that `em` can fit: it states the two steps, as mixtures, factor models and state space models do."""

    def e_step(self, *data: Any, **keywords: Any) -> tuple[Any, Tensor]:
        """Expected statistics and log p(x) at the current parameters; log p(x) per datum `(N,)`, or summed `()`."""
        ...

    def m_step(self, statistics: Any) -> Tensor | float | None:
        """Sets the parameters, in place, to the maximiser of the expected complete-data log-likelihood.

        An exact step returns None. A step that also obeys a floor or a prior may lower the log-likelihood, and returns
        an upper bound on that fall, in nats summed over the data.
        """
        ...


class Restartable(EMModel, Protocol):
    """A model that `em(restarts=...)` can start anew, and put back to the best of its runs."""

    def initialise(self, *data: Any, **keywords: Any) -> None:
        """Sets the parameters to a random start made of the data."""
        ...

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass(frozen=True)
class EMResult:
    """The course of a run of `em`, of the best run where there were restarts.

    Attributes:
        trajectory: nats per datum before the first M-step, after the first, ..., after the last.
        converged: True if the last gain was within the tolerance, or lost in rounding.
        starts: the trajectories of all restarts, in order; empty without restarts.
    """

    trajectory: tuple[float, ...]
    converged: bool
    starts: tuple[tuple[float, ...], ...] = ()

    @property
    def iterations(self) -> int:
        """The number of M-steps taken."""
        return len(self.trajectory) - 1

    @property
    def log_likelihood(self) -> float:
        """log p(x) of the model as `em` left it, nats per datum."""
        return self.trajectory[-1]


class EMError(RuntimeError):
    """Error of a log-likelihood that fell or is not finite: the two steps disagree, or rounding took over.

    Attributes:
        iteration: number of M-steps before the error.
        amount: the fall, nats per datum (NaN when the value is not finite).
        trajectory: log-likelihoods so far, nats per datum, the offending one last.
    """

    def __init__(self, message: str, iteration: int, amount: float, trajectory: list[float]) -> None:
        super().__init__(message)
        self.iteration, self.amount, self.trajectory = iteration, amount, tuple(trajectory)


@torch.no_grad()
def em(
    model: EMModel,
    data: Any,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
    restarts: int = 0,
    slack: float | None = None,
    **keywords: Any,
) -> EMResult:
    """Alternates `model.e_step` and `model.m_step` until log p(x) gains no more; log p(x) that falls is an error.

    References: Dempster, Laird & Rubin 1977; Neal & Hinton 1998 (both steps climb one bound, tight after each E-step).

    Args:
        model: any object with `e_step` and `m_step` (`EMModel`); its parameters are changed in place.
        data: the first argument of `e_step`, or a tuple of its positional arguments, in any form that `fit` takes; the
            batch axis of the first comes first.
        max_iterations: M-steps at most.
        tolerance: a step that changes log p(x) by no more than this ends the run, nats per datum; with 0 the run ends
            when gains are lost in rounding.
        restarts: 0 starts at the parameters that the model has. R >= 1 calls `model.initialise(*data)` R times, which
            draws from torch's random numbers, and leaves the model at the best of the R ends.
        slack: largest fall that counts as rounding, nats per datum; by default 100 units in the last place of log p(x)
            in its dtype.
        **keywords: handed on to `e_step` and `initialise`, such as `mask=`.

    Returns:
        `EMResult`, with the log-likelihood at every step.

    Raises:
        EMError: log p(x) fell by more than rounding and the loss that `m_step` announced, or is not finite.
        ValueError: max_iterations < 1, restarts < 0, tolerance or slack < 0 or NaN.
        TypeError: the model lacks a method; names it.

    Example:
        >>> import torch
        >>> from zoo.infer.em import em
        >>> from zoo.mixture import GaussianMixture
        >>> x = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 8])
        >>> em(GaussianMixture(2, 2), x, restarts=3).converged
        True
    """
    check_counts(max_iterations=max_iterations)
    check_counts(0, restarts=restarts)
    check_least(0, tolerance=tolerance, **({} if slack is None else {"slack": slack}))
    needed = ["e_step", "m_step"] + (["initialise", "state_dict", "load_state_dict"] if restarts else [])
    lacking = [name for name in needed if not callable(getattr(model, name, None))]
    if lacking:
        raise TypeError(f"em: {type(model).__name__} has no {', '.join(lacking)} (see zoo.infer.em.EMModel)")

    args = data if isinstance(data, tuple) else (data,)
    # once for all iterations; data of another kind are between the caller and his own model
    if is_collection(args[0]) or is_data(args[0], "x"):
        first, rest, keywords = entered((model,), args[0], args[1:], keywords)
        args = first, *rest
    if not restarts:
        return _climb(model, args, keywords, max_iterations, tolerance, slack)

    starting = cast(Restartable, model)
    runs: list[EMResult] = []
    state: Any = None
    for _ in range(restarts):
        starting.initialise(*args, **keywords)
        runs.append(_climb(model, args, keywords, max_iterations, tolerance, slack))
        if runs[-1] is max(runs, key=lambda run: run.log_likelihood):
            state = copy.deepcopy(starting.state_dict())
    starting.load_state_dict(state)
    best = max(runs, key=lambda run: run.log_likelihood)
    return replace(best, starts=tuple(run.trajectory for run in runs))


def _climb(
    model: EMModel, args: tuple, keywords: dict, max_iterations: int, tolerance: float, slack: float | None
) -> EMResult:
    """One run from the parameters that the model has."""
    trajectory: list[float] = []
    announced = 0.0
    while True:
        statistics, log_likelihood = model.e_step(*args, **keywords)
        count = log_likelihood.numel() if log_likelihood.ndim else len(args[0])
        values = log_likelihood.double()
        value, size = values.sum().item() / count, values.abs().sum().item() / count
        trajectory.append(value)
        iteration = len(trajectory) - 1
        if not math.isfinite(value):
            lost = (~torch.isfinite(log_likelihood)).flatten().nonzero().flatten().tolist()
            where = f" (rows {listed(lost)})" if log_likelihood.ndim else ""
            message = f"em: log-likelihood is {value} nats per datum after {iteration} M-steps{where}"
            raise EMError(message, iteration, math.nan, trajectory)
        if iteration:
            gain = value - trajectory[-2]
            # a unit in the last place of the mean of |log p(x_n)|: terms of both signs cancel in the sum, rounding does
            # not. The largest fall seen, on MNIST in float32, was 0.4 units
            unit = torch.finfo(log_likelihood.dtype).eps * max(1.0, size)
            rounding = 100 * unit if slack is None else slack
            if gain < -(rounding + announced / count):
                raise EMError(
                    f"em: M-step {iteration} lowered the log-likelihood by {-gain:.3g} nats per datum, from "
                    f"{trajectory[-2]:.6f} to {value:.6f}; rounding explains {rounding:.1g}, "
                    f"and m_step announced {announced / count:.1g}",
                    iteration,
                    -gain,
                    trajectory,
                )
            if abs(gain) <= tolerance or -rounding <= gain <= 0:
                return EMResult(tuple(trajectory), converged=True)
        if iteration == max_iterations:
            return EMResult(tuple(trajectory), converged=False)
        announced = max(0.0, float(model.m_step(statistics) or 0.0))
