"""Conditions: all that a program is given beside x, and that its priors, likelihoods and encoders see.

A model with `condition_dim` = C > 0 takes a condition for each data point: classes, int64 `(N,)`, coded as one-hot
vectors of length C, or vectors `(N, C)`, of whole numbers too. Within a program a condition is a tuple: of one tensor
`(N, C)`, or empty where the model has none, so that `self.decoder(z, *y)` is the line of both kinds of model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_condition, check_counts, check_rows, parameter_of, refuse_condition, widths
from zoo.parts.conditionals import Normal, StandardNormal
from zoo.parts.door.programs import signature_of
from zoo.parts.labels import one_hot
from zoo.parts.networks import DenseStage, WithHead, mlp
from zoo.parts.once import once

Condition = tuple[Tensor, ...]


def condition_size(condition_dim: int | None) -> int:
    """The size C of a condition; 0 for None.

    Raises:
        ValueError: no whole number, or below 0.
    """
    if condition_dim is None:
        return 0
    check_counts(0, condition_dim=condition_dim)
    return condition_dim


def entering(condition_dim: int) -> tuple[int, ...]:
    """The sizes of a condition among the inputs of a network: `(C,)`, or none."""
    return (condition_dim,) if condition_dim else ()


def check_given(
    model: Any, x: Tensor, mask: Tensor | None, y: Tensor | None, like: Tensor | None, name: str = "y"
) -> Condition:
    """Checks x, mask and condition at a program's door.

    Args:
        model: states `data_dim` and, if it takes a condition, `condition_dim`.
        y: the condition.
        like: a parameter of the program.
        name: of the condition among the program's arguments.

    Returns:
        The condition, as vectors.

    Raises:
        ValueError: as `check_rows` and `check_condition`.
        TypeError: x or y is not a tensor.
    """
    check_rows(x, model.data_dim, like, mask)
    return conditions(model, x, y, name)


def conditions(model: Any, x: Tensor, y: Tensor | None, name: str = "y") -> Condition:
    """A condition, checked alone, as vectors. Arguments as of `check_given`."""
    size = getattr(model, "condition_dim", 0)
    if not size:
        refuse_condition(type(model).__name__, y, name)
        return ()
    check_condition(type(model).__name__, y, size, x, name)
    return (coded(y, size, x),)


def blank(model: Any) -> Condition:
    """A condition of zeros for one data point, as vectors, for a look at a prior that takes one."""
    size = getattr(model, "condition_dim", 0)
    like = parameter_of(model) if isinstance(model, nn.Module) else None
    return (torch.zeros(1, size) if like is None else like.detach().new_zeros(1, size),) if size else ()


@once
def coded(y: Tensor, condition_dim: int, like: Tensor) -> Tensor:
    """Classes `(N,)` as one-hot vectors of length condition_dim; vectors in the dtype of `like`."""
    return one_hot(y, condition_dim, like) if y.ndim == 1 else y.to(like.dtype)


def prior_of(prior: nn.Module | None, latent_dim: int, condition_dim: int, hidden: Any = ()) -> Any:
    """The prior of a model: the one that it was given, else N(0, I), or with a condition a Gaussian by a network of it.

    Args:
        prior: the caller's own, or None.
        hidden: widths of the network; (400,) where these are no widths.
    """
    if prior is not None or not condition_dim:
        return StandardNormal(latent_dim) if prior is None else prior
    plain = isinstance(hidden, Sequence) and len(hidden) > 0
    head = partial(Normal, heteroscedastic=True)
    return WithHead((condition_dim,), latent_dim, head, widths(hidden) if plain else (400,))


def prior_given(prior: Callable[..., Any], condition: Condition) -> Any:
    """p(z | y) of a prior that takes a condition, p(z) of one that takes none."""
    return prior(*condition) if condition and takes_one(prior) else prior()


def takes_one(prior: Callable[..., Any]) -> bool:
    """Tells whether a call of a prior takes a condition."""
    parameters = signature_of(prior).parameters.values()
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def dense(sizes: Sequence[int], hidden: Sequence[int], activation: Callable[[], nn.Module]) -> Any:
    """A perceptron of one vector, `mlp`, or of several, `DenseStage`, whose first layer is a `MultiInput`.

    Raises:
        ValueError: several inputs and no width.
    """
    if len(sizes) > 1:
        return DenseStage(sizes, hidden, activation=activation)
    return mlp(sizes[0], hidden, activation=activation)


def rows_for(model: Any, num: int, y: Any, like: Tensor | None, name: str = "y") -> Condition:
    """The condition of `num` new data points.

    Args:
        y: a row for each, classes `(num,)` or vectors `(num, C)`; or one for all: a class, `(C,)`.
        like: a parameter of the model; None: it has none.

    Raises:
        TypeError, ValueError: as `conditions`.
    """
    if isinstance(y, Tensor) and model.condition_dim:
        one = y.ndim == 0 or (y.ndim == 1 and y.is_floating_point())
        y = y.expand(num, *y.shape) if one else y
    return conditions(model, (torch.empty(0) if like is None else like).new_zeros(num, 0), y, name)


def program_arguments(model: Any) -> tuple[str, ...]:
    """The names of a program's arguments after x, in order."""
    parameters = signature_of(model).parameters.values()
    # a model around another takes the arguments of that one
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and hasattr(model, "inner"):
        return program_arguments(model.inner)
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(named[1:])
