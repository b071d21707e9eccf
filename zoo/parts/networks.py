"""Networks: the last axis is mapped, every leading axis (particles, enumeration) is broadcast."""

from collections.abc import Callable, Sequence

from torch import nn


def mlp(
    in_features: int,
    hidden: Sequence[int],
    out_features: int | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """A multilayer perceptron: `Linear, activation` for each width in `hidden`, then a linear output if asked.

    Args:
        in_features: size of the last axis of the input.
        hidden: widths of the hidden layers; may be empty.
        out_features: size of a last layer without activation; `None` ends with the last activation.
        activation: constructor of the nonlinearity, called once for each hidden layer.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), activation()]
        in_features = width
    if out_features is not None:
        layers.append(nn.Linear(in_features, out_features))
    return nn.Sequential(*layers)
