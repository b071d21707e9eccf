"""Densities over vectors, event shape `(d,)`: shared by the zoo and guides."""

from typing import Any, ClassVar, NoReturn

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor


def version_of(value: Tensor) -> int:
    """How often a tensor was written to; inference tensors do not count."""
    return 0 if value.is_inference() else value._version


def no_closed_form(density: str, moment: str) -> NoReturn:
    """NotImplementedError with words; torch's own has none."""
    raise NotImplementedError(f"{density}: no closed form of the {moment}. Estimate it from draws, `sample((1000,))`")


class VectorDistribution(TorchDistribution):
    """A density over R^d (abstract): shapes are set, not derived, and validation is left to the check of the pair.

    As torch's contract has it, `log_prob` of values `(..., d)` has the shape of `batch_shape` and `...` broadcast.
    """

    has_rsample = False
    arg_constraints: ClassVar[dict] = {}

    def __init__(self, batch_shape: torch.Size, dim: int) -> None:
        self._batch_shape = batch_shape
        self._event_shape = torch.Size((dim,))
        self._validate_args = False

    @property
    def _name(self) -> str:
        """The name that messages use."""
        return type(self).__name__

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Any:
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self._batch_shape:
            return self
        own, last = self._batch_shape, batch_shape[max(len(batch_shape) - len(self._batch_shape), 0) :]
        if len(own) != len(last) or any(a not in (1, b) for a, b in zip(own, last, strict=True)):
            raise ValueError(f"{self._name}: batch shape {tuple(self._batch_shape)} does not expand to "
                             f"{tuple(batch_shape)}")  # fmt: skip
        return self._expand(batch_shape)

    def _expand(self, batch_shape: torch.Size) -> Any:
        raise TypeError(f"{self._name} does not say how it expands to {tuple(batch_shape)}")

    def _vectors(self, value: Tensor) -> Tensor:
        """The value, of floats where it is of whole numbers or booleans, if it is one of vectors of length d."""
        if value.shape[-1:] != self._event_shape:
            raise ValueError(f"{self._name}: expected vectors (..., {self._event_shape[0]}), got a value of shape "
                             f"{tuple(value.shape)}")  # fmt: skip
        return value if value.is_floating_point() else value.to(torch.get_default_dtype())

    def _full(self, score: Tensor) -> Tensor:
        """The scores, with the axes of the batch that their value and parameters lack."""
        shape, batch = score.shape, self._batch_shape
        if shape[len(shape) - len(batch) :] == batch:
            return score
        return score.expand(torch.broadcast_shapes(shape, batch))

    @property
    def mean(self) -> Tensor:
        no_closed_form(self._name, "mean")

    @property
    def variance(self) -> Tensor:
        no_closed_form(self._name, "variance")

    def entropy(self) -> Tensor:
        no_closed_form(self._name, "entropy")
