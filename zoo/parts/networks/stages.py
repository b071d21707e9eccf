"""Stages: the networks between one level of a hierarchy and the next.

A stage is made by a constructor `stage(sizes)`, of the lengths of its inputs, and called with as many vectors, whose
leading axes broadcast; its attribute `size` is the length of its output. Settings go in by `functools.partial`:
`partial(DenseStage, hidden=(512, 512), activation=nn.ELU)`. `MultiInput` is a stage, too, a linear one.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as with_weight_norm

from zoo.parts.aside import trial
from zoo.parts.checks import widths
from zoo.parts.networks.mlp import start_kaiming
from zoo.parts.networks.multi_input import MultiInput
from zoo.parts.recorded import Recorded

#: the widths of one level, or the constructor of a stage
StageArgument = Sequence[int] | Callable[[Sequence[int]], nn.Module]


class DenseStage(Recorded, nn.Module):
    """A multilayer perceptron of several inputs: `MultiInput`, then layers, with a nonlinearity after each.

    Weights start as `start_kaiming` says: under torch's own start a signal loses five sixths of its variance in each
    layer, and a hierarchy of ten layers up and ten down never learns more than the mean of its data.

    References: He et al. 2015 (the start); Salimans and Kingma 2016 (weight normalisation).

    Args:
        sizes: lengths of the inputs.
        hidden: widths of the layers, at least one; the last is the length of the output.
        activation: constructor of the nonlinearity.
        norm: constructor `width -> Module`, called for each layer; the module stands before the nonlinearity, as
            `nn.LayerNorm` does. No batch norm, which would mix data points and particles.
        weight_norm: learns the length and the direction of each unit's weights apart.

    Raises:
        ValueError: no width, or one below 1.

    Example:
        >>> import torch
        >>> from zoo.parts.networks import DenseStage
        >>> stage = DenseStage((8, 4), (32, 16))
        >>> stage.size, stage(torch.zeros(5, 8), torch.zeros(3, 1, 4)).shape
        (16, torch.Size([3, 5, 16]))
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden: Sequence[int],
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm: Callable[[int], nn.Module] | None = None,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = widths(hidden)
        if not hidden:
            raise ValueError("hidden: a stage needs at least one width, got ()")
        self.size = hidden[-1]
        self.inputs = MultiInput(sizes, hidden[0])
        layers = [nn.Linear(before, width) for before, width in pairwise(hidden)]
        # before weight norm, which takes the start of a layer's weights apart
        start_kaiming(*self.inputs.layers, inputs=len(sizes))
        start_kaiming(*layers)
        if weight_norm:
            self.inputs.layers = nn.ModuleList(map(with_weight_norm, self.inputs.layers))
            layers = [with_weight_norm(layer) for layer in layers]
        after = [[*([norm(width)] if norm else []), activation()] for width in hidden]
        self.rest = nn.Sequential(*after[0], *(m for pair in zip(layers, after[1:], strict=True)
                                               for m in (pair[0], *pair[1])))  # fmt: skip

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.rest(self.inputs(*inputs))


class RescaledStage(Recorded, nn.Module):
    """A stage around another one, whose first input v it rescales, (v - shift) / scale: for grey levels 0..255.

    Deep networks start for inputs of size 1; levels of 255 would overflow in the exponential of a log scale.

    Args:
        sizes: lengths of the inputs.
        stage: constructor of the other stage.
        shift, scale: numbers, of all entries.

    Raises:
        ValueError: a scale that is not positive.
    """

    def __init__(
        self, sizes: Sequence[int], stage: Callable[[Sequence[int]], nn.Module], *, shift: float, scale: float
    ) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number > 0, got {scale}")
        self.shift, self.scale, self.stage = shift, scale, stage(sizes)
        self.size: Any = self.stage.size

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return self.stage((first - self.shift) / self.scale, *others)


def per_level(name: str, given: Any, depth: int) -> tuple[Any, ...]:
    """An argument that has an entry for each level, as a tuple.

    Args:
        name: of the argument.

    Raises:
        ValueError: another number of entries, or no sequence.
    """
    if not isinstance(given, Sequence) or len(given) != depth:
        many = f"{len(given)} entries" if isinstance(given, Sequence) else "no sequence"
        raise ValueError(f"{name}: expected an entry for each of the {depth} levels, got {many}: {given!r}")
    return tuple(given)


def stage_arguments(hidden: Sequence[StageArgument] | None, depth: int) -> tuple[StageArgument, ...]:
    """`hidden` of a model or a guide of hierarchies, an entry for each level; None is a layer of 400 for each."""
    return ((400,),) * depth if hidden is None else per_level("hidden", hidden, depth)


def build_stage(stage: StageArgument, sizes: Sequence[int], activation: Callable[[], nn.Module], name: str) -> Any:
    """The stage of one level, tried once on zeros.

    Args:
        stage: widths, for a `DenseStage`, or a constructor.
        sizes: lengths of its inputs.
        name: of the entry that an error names, such as "hidden[2]".

    Raises:
        TypeError: neither widths nor a constructor.
        ValueError: the stage fails on inputs of these sizes, or has another size than it says.
    """
    # a module is callable too, and would be called on the sizes as if they were its input
    if isinstance(stage, nn.Module) or not (callable(stage) or isinstance(stage, Sequence)):
        raise TypeError(f"{name}: expected widths such as (512, 512), or a constructor `stage(sizes)`, got {stage!r}")
    try:
        built: Any = stage(sizes) if callable(stage) else DenseStage(sizes, stage, activation=activation)
        # the trial tells of sizes that do not meet here, and not in the middle of a program
        with trial(built):
            found = built(*(torch.zeros(1, n) for n in sizes)).shape
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: no stage of inputs of sizes {tuple(sizes)}: {error}") from error
    if found != (1, getattr(built, "size", None)):
        raise ValueError(f"{name}: {type(built).__name__} says size = {getattr(built, 'size', None)}, and makes "
                         f"{tuple(found[1:])} of inputs of sizes {tuple(sizes)}")  # fmt: skip
    return built
