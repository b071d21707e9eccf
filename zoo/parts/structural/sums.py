"""Sums of named components: a series that can be taken apart again."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from operator import add
from typing import Any

from torch import Tensor

from zoo.parts.kalman import Parameters


@dataclass(frozen=True)
class Components:
    """The parameters of a sum: `components(trend=..., season=...)`, called with the values of all of its parts."""

    parts: tuple[tuple[str, Callable[..., Parameters]], ...]

    def __call__(self, frames: int | None = None, **values: Tensor) -> Parameters:
        return reduce(add, self.apart(frames, **values).values())

    def apart(self, frames: int | None = None, **values: Tensor) -> dict[str, Parameters]:
        """The parameters of each part; the states of the sum are theirs, one part after the other.

        Raises:
            ValueError: a value that no part takes, or that several take.
        """
        given: dict[str, dict[str, Tensor | int | None]] = {name: {} for name, _ in self.parts}
        for value_name, value in values.items():
            for part, argument in self._takers(value_name):
                given[part][argument] = value
        for name, build in self.parts:
            if "frames" in argument_names(build):
                given[name]["frames"] = frames
        return {name: build(**given[name]) for name, build in self.parts}

    def __str__(self) -> str:
        return " + ".join(f"{name} ({spoken(part)})" for name, part in self.parts)

    def _takers(self, value: str) -> list[tuple[str, str]]:
        """The parts that a value goes to, each with the name of its argument there."""
        own = [(name, value.removeprefix(f"{name}_")) for name, _ in self.parts if value.startswith(f"{name}_")]
        arguments = {name: argument_names(part) for name, part in self.parts}
        if found := [(name, argument) for name, argument in own if argument in arguments[name]]:
            return found[:1]
        found = [(name, value) for name in arguments if value in arguments[name]]
        if not found:
            raise ValueError(f"{value}: no argument of {', '.join(arguments)}")
        # what is known of the start is said once; any other value that two parts shared would be counted twice
        if len(found) > 1 and value != "initial_variance":
            names = " or ".join(f"{name}_{value}" for name, _ in found)
            raise ValueError(f"{value}: an argument of several parts, expected {names}")
        return found


def components(**parts: Callable[..., Parameters]) -> Components:
    """The sum of named parts, for `LGSSM`: `components(trend=local_linear_trend, season=seasonal(12))`.

    A value of the sum is named as the part's argument, `seasonal_variance`, or with the part in front,
    `season_seasonal_variance`, where several parts have it. `initial_variance` goes to all parts that have it.

    Args:
        **parts: functions that give `kalman.Parameters`; `irregular` is the noise of the observations.

    Raises:
        ValueError: no parts.

    Example:
        >>> import math, torch
        >>> from zoo import LGSSM
        >>> from zoo.parts.structural import components, irregular, local_level, seasonal
        >>> build = components(level=local_level, season=seasonal(4), noise=irregular)
        >>> names = ("level_variance", "seasonal_variance", "noise_variance")
        >>> values = {name: torch.tensor(1.0) for name in names}
        >>> model = LGSSM(build, **values, initial_variance=torch.tensor(math.inf))
        >>> model.components(torch.randn(1, 20, 1))["season"].mean.shape
        torch.Size([1, 20, 1])
    """
    if not parts:
        raise ValueError("components: expected at least one part")
    return Components(tuple(parts.items()))


def argument_names(build: Callable) -> list[str]:
    """The names of the arguments that a function of named tensors has."""
    return list(inspect.signature(build).parameters)


def spoken(build: Callable) -> str:
    """The words for a function of `zoo.parts.structural`: its name and its settings."""
    if isinstance(build, Components):
        return str(build)
    if is_dataclass(build) and not isinstance(build, type):
        settings = (getattr(build, field.name) for field in fields(build))
        words = (f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"{value}" for value in settings)
        return f"{type(build).__name__}({', '.join(words)})"
    return getattr(build, "__name__", type(build).__name__)


def printed(model: Any) -> str:
    """The words of `print(model)` for an `LGSSM`: the sum, sizes, each value."""
    diffuse = f", {model.num_diffuse} of them diffuse" if model.num_diffuse else ""
    form = "marginal" if model.marginal else "latent"
    about = f"{model.state_dim} states{diffuse}, data_dim {model.data_dim}, {form}, burn {model.burn}"
    learned = {name.removesuffix("_unconstrained") for name, p in model.named_parameters() if p.requires_grad}
    rows = [f"x = {spoken(model.build)}", about]
    for name in model._names:
        value, (constraint, _) = getattr(model, name).detach(), model._pyro_params.get(name, (None, None))
        words = ["learned" if name in learned else "fixed", *([] if constraint is None else [str(constraint)])]
        numbers = ", ".join(f"{number:.6g}" for number in value.flatten()[:6].tolist())
        rows.append(f"{name}: {numbers}{', ...' if value.numel() > 6 else ''} ({', '.join(words)})")
    return "\n".join(rows + [f"{name}: drawn from {type(prior).__name__}" for name, prior in model.priors.items()])
