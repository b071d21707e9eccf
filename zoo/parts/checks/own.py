"""Checks of networks that a caller gives to a model or guide, and of what they return."""

from collections.abc import Sequence
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from zoo.parts.checks.words import check_counts


def check_module(name: str, value: Any, advice: str) -> None:
    """Refuses a part that is no module, such as a function around one, whose parameters nothing would train.

    Raises:
        TypeError: names the argument.
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: expected a module such as {advice}, got {value!r}")


def check_own(whose: str, **given: Any) -> None:
    """Refuses a network without the size of its output, or the reverse; the keywords are the arguments' names.

    Raises:
        TypeError: the network is no module.
        ValueError: one comes without the other; a size below 1.
    """
    (name, network), (size_name, size) = given.items()
    if (network is None) != (size is None):
        raise ValueError(f"{whose}: `{name}` and `{size_name}` (the size of its output) come together")
    if network is not None:
        check_module(name, network, "zoo.parts.networks.mlp(...)")
        check_counts(**{size_name: size})


def check_features(name: str, network: Any, features: Any, shape: Sequence[int]) -> None:
    """Refuses features of another shape, which might broadcast: one row for many would be all of theirs.

    Raises:
        ValueError: names the network's argument.
    """
    found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if found != tuple(shape):
        raise ValueError(
            f"{name}: expected features of shape {tuple(shape)} from {type(network).__name__}, got {found}"
        )


def check_density(name: str, density: Any, batch: Sequence[int], event: Sequence[int]) -> None:
    """Refuses what is no density of these shapes, which might broadcast as well.

    Raises:
        ValueError: names the argument, or the arguments, that made it.
    """
    found = type(density).__name__
    if isinstance(density, TorchDistributionMixin):
        if density.batch_shape == tuple(batch) and density.event_shape == tuple(event):
            return
        found = f"{found} of {tuple(density.batch_shape)} and {tuple(density.event_shape)}"
    raise ValueError(f"{name}: expected a Pyro distribution of batch shape {tuple(batch)} and event shape "
                     f"{tuple(event)}, got {found}")  # fmt: skip


def mean_of(name: str, density: Any) -> Tensor:
    """The mean of a density that a caller's part has made.

    Raises:
        ValueError: it has none in closed form, as flows have none; names the argument.
    """
    try:
        return density.mean
    except NotImplementedError as error:
        raise ValueError(f"{name}: {type(density).__name__} has no mean in closed form, needed here; Diagonal, "
                         "BoundedDiagonal, FullRank and Mixture have one") from error  # fmt: skip
