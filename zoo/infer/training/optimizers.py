"""The optimiser and the schedule of a training, and the groups of parameters that have options of their own.

Constructors are the caller's, so that all they make is looked over.
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Group(NamedTuple):
    """Parameters with options of their own.

    Attributes:
        patterns: those that name the parameters; none of the group of all others.
        parameters: in the order of the loss.
        options: name -> value, of the optimiser.
    """

    patterns: tuple[str, ...]
    parameters: list[nn.Parameter]
    options: dict[str, Any]


def groups_of(loss: nn.Module, groups: Mapping[str, Mapping[str, Any]] | None) -> list[Group]:
    """The trained parameters of a loss, in groups of equal options.

    Args:
        loss: names the parameters. One that model and guide share has a name from each.
        groups: pattern of names -> options. A parameter takes the options of all patterns that match it.

    Raises:
        TypeError: `groups` is no mapping to options.
        ValueError: a pattern matches no parameter, or frozen ones alone; two patterns set one option of a parameter to
            different values.
    """
    groups = {} if groups is None else groups
    if not isinstance(groups, Mapping) or not all(isinstance(o, Mapping) and o for o in groups.values()):
        raise TypeError(f"groups: expected options by name, such as {{'guide.*': {{'lr': 1e-4}}}}, got {groups!r}")
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in loss.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    found: dict[tuple[str, ...], list[nn.Parameter]] = {}
    matched: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in groups}
    for parameter, own in names.items():
        # Case counts, on every system: names of Python do.
        patterns = tuple(pattern for pattern in groups if any(fnmatchcase(name, pattern) for name in own))
        for pattern in patterns:
            matched[pattern].append(parameter)
        if parameter.requires_grad:
            found.setdefault(patterns, []).append(parameter)
    for pattern, parameters in matched.items():
        _refuse_idle(pattern, parameters, [name for own in names.values() for name in own])
    # Those that no pattern names come first: theirs is the learning rate that records show.
    ordered = sorted(found.items(), key=lambda item: bool(item[0]))
    return [Group(key, ones, _merged(key, groups, names[ones[0]][0])) for key, ones in ordered]


def _refuse_idle(pattern: str, parameters: list[nn.Parameter], names: list[str]) -> None:
    if not parameters:
        nearest = get_close_matches(pattern, names, n=3, cutoff=0.0)
        raise ValueError(f"groups: no parameter is called {pattern!r}; the nearest names are {', '.join(nearest)}")
    if not any(p.requires_grad for p in parameters):
        raise ValueError(f"groups: all {len(parameters)} parameters called {pattern!r} are frozen (requires_grad)")


def _merged(patterns: tuple[str, ...], groups: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for pattern in patterns:
        for option, value in groups[pattern].items():
            # Refused, and not the later one preferred: which of the two was meant would stand nowhere in the settings.
            if option in merged and merged[option] != value:
                other = next(p for p in patterns if option in groups[p])
                raise ValueError(
                    f"groups: {other!r} and {pattern!r} both match {name} and set its {option}, to {merged[option]!r} "
                    f"and {value!r}; give patterns of which one alone sets it"
                )
            merged[option] = value
    return merged


def optimizer_of(make: Any, groups: list[Group]) -> torch.optim.Optimizer:
    """The optimiser that a constructor makes for the trained parameters.

    Raises:
        TypeError: `make` is no such constructor; it makes something else, or an optimiser that wants the loss again.
        ValueError: the optimiser holds other parameters, or has no such option as a group gives.
    """
    parameters = [p for group in groups for p in group.parameters]
    wanted = "a constructor parameters -> torch.optim.Optimizer, such as partial(torch.optim.Adam, lr=1e-3)"
    if isinstance(make, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected {wanted}, got a {type(make).__name__} that is made already")
    if isinstance(make, PyroOptim):
        make = _torchs(make, wanted)
    if getattr(make, "__module__", "").startswith("pyro.optim"):
        raise TypeError(f"optimizer: expected {wanted}, got one of pyro.optim without its options, such as "
                        "pyro.optim.Adam({'lr': 1e-3})")  # fmt: skip
    if not callable(make):
        raise TypeError(f"optimizer: expected {wanted}, got {make!r}")
    # Without patterns the parameters themselves, so that a constructor need know nothing of groups.
    plain = all(not group.patterns for group in groups)
    given = parameters if plain else [{**group.options, "params": group.parameters} for group in groups]
    made = _made(make, given, f"optimizer: expected {wanted}")
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
    for group in groups:
        if group.options:
            _refuse_options(made, group)
    # A learning rate may be a tensor: a schedule writes into it, and the caller's must stay what it is, for the next
    # training and for the other groups.
    for own in made.param_groups:
        own.update({name: value.clone() for name, value in own.items() if isinstance(value, torch.Tensor)})
    return made


def _torchs(made: PyroOptim, wanted: str) -> Callable:
    """The constructor of torch's optimiser that an optimiser of Pyro's makes for each parameter.

    Raises:
        TypeError: options of single parameters, clipping or a schedule, for which `fit` has arguments of its own.
    """
    kind = type(made).__name__
    if isinstance(made, PyroLRScheduler):
        raise TypeError(f"optimizer: expected {wanted}, got {kind} of pyro.optim; schedule= takes one of torch's")
    if callable(made.pt_optim_args):
        raise TypeError(f"optimizer: {kind} has options by parameter, in a function; groups= takes them by name")
    if made.pt_clip_args:
        raise TypeError(f"optimizer: {kind} clips each gradient by itself, {made.pt_clip_args}; clip= clips their norm")
    return partial(made.pt_optim_constructor, **made.pt_optim_args)


def _refuse_options(optimizer: torch.optim.Optimizer, group: Group) -> None:
    """Refuses options of a group that the optimiser does not know, or values that its constructor would refuse."""
    # torch keeps an unknown option of a group without a word, and looks at no value but those of the constructor.
    kind, defaults = type(optimizer), optimizer.defaults
    said = f"groups: {' and '.join(map(repr, group.patterns))}"
    for option in group.options:
        if option not in defaults:
            raise ValueError(f"{said}: {kind.__name__} has no option {option!r}; it has {', '.join(defaults)}")
    signature, alone = inspect.signature(kind), [nn.Parameter(torch.zeros(()))]
    options = {name: value for name, value in {**defaults, **group.options}.items() if name in signature.parameters}
    try:
        signature.bind(alone, **options)
    except TypeError:
        # A class that wants more than its defaults to be made: its values stay unchecked.
        return
    try:
        kind(alone, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{said}: {error}") from error


def scheduler_of(make: Any, optimizer: torch.optim.Optimizer, *, validated: bool) -> Any:
    """The learning-rate schedule that a constructor makes for an optimiser; None for None.

    Args:
        validated: there is a validation loss, which `ReduceLROnPlateau` wants.

    Raises:
        TypeError: `make` is no such constructor; it makes something else, or a schedule that wants more than the step.
        ValueError: the schedule is that of another optimiser, or of a validation loss that there is not.
    """
    wanted = "a constructor optimizer -> LRScheduler, such as partial(lr_scheduler.ExponentialLR, gamma=0.99)"
    if make is None:
        return None
    if isinstance(make, torch.optim.lr_scheduler.LRScheduler | PyroOptim):
        raise TypeError(f"schedule: expected {wanted}, got a {type(make).__name__} that is made already")
    if not callable(make):
        raise TypeError(f"schedule: expected {wanted}, got {make!r}")
    made = _made(make, optimizer, f"schedule: expected {wanted}")
    # With its state, since a training is resumed with it.
    if not all(callable(getattr(made, name, None)) for name in ("step", "state_dict", "load_state_dict")):
        raise TypeError(f"schedule: expected {wanted}, it made a {type(made).__name__}")
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise ValueError(f"schedule: {type(made).__name__} is that of another optimizer; expected {wanted}")
    if isinstance(made, ReduceLROnPlateau):
        if not validated:
            raise ValueError("schedule: ReduceLROnPlateau waits for a better validation loss: give validation=")
        if made.mode != "min":
            raise ValueError(f"schedule: ReduceLROnPlateau has mode={made.mode!r}; the least loss is the best one")
        return made
    if lacking := _needed(made.step):
        raise TypeError(
            f"schedule: {type(made).__name__} wants {lacking} at each step; expected one that counts steps alone, or "
            "ReduceLROnPlateau"
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
