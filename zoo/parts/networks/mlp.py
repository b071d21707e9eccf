"""Multilayer perceptrons, and how layers start."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.checks import widths


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

    Returns:
        A network `(..., in_features)` -> `(..., out_features)`, or `(..., hidden[-1])` without an output layer.

    Raises:
        TypeError, ValueError: `hidden` holds something other than positive whole numbers.
    """
    layers: list[nn.Module] = []
    for width in widths(hidden):
        layers += [nn.Linear(in_features, width), activation()]
        in_features = width
    if out_features is not None:
        layers.append(nn.Linear(in_features, out_features))
    return nn.Sequential(*layers)


def start_small(*parameters: Tensor, but: slice = slice(0)) -> None:
    """Scales the parameters of a layer, in place, to a tenth.

    Args:
        parameters: weights or biases; their first axis counts the outputs of the layer.
        but: outputs whose entries stay as they are.
    """
    with torch.no_grad():
        for parameter in parameters:
            kept = parameter[but].clone()
            parameter.mul_(0.1)[but] = kept


def start_kaiming(*layers: Any, inputs: int = 1) -> None:
    """Draws the weights of layers anew, N(0, 2 / (fan_in * inputs)), and sets their biases to zero.

    A signal then keeps its size through any number of layers with rectifiers.

    References: He et al. 2015.

    Args:
        layers: linear layers or convolutions.
        inputs: number of the layers whose outputs are added up.
    """
    with torch.no_grad():
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight).mul_(inputs**-0.5)
            if layer.bias is not None:
                layer.bias.zero_()
