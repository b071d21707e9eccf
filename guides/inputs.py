"""All that the networks of a guide see of a program's arguments: x, flags of its missing entries, a condition."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.parts.checks import check_shape, parameter_of
from zoo.parts.given.conditions import Condition, check_given, conditions, entering, program_arguments
from zoo.parts.given.gaps import zero_filled


class Reading(NamedTuple):
    """The arguments of one call.

    Attributes:
        x: the data, 0 where they are missing.
        flags: 1 where x is missing and 0 elsewhere, the shape of x; none for a guide built without `flags`.
        condition: the condition, as vectors; none where the model takes none.
    """

    x: Tensor
    flags: tuple[Tensor, ...]
    condition: Condition

    @property
    def entering(self) -> tuple[Tensor, ...]:
        """The inputs of an encoder."""
        return self.x, *self.flags, *self.condition


class Inputs:
    """The inputs of a guide's networks, with their sizes, by the names that the model's program has for its arguments.

    A guide takes the arguments of its model, whatever their order: `mask` says which entries of x are observed, `c`,
    or `y` where there is no `c`, is the condition of a model that states a `condition_dim`.

    Args:
        model: the guide's model.
        flags: lets the networks see which entries are missing.
    """

    def __init__(self, model: Any, flags: bool = False) -> None:
        self.names, self.flags = program_arguments(model), flags
        self.condition_dim = getattr(model, "condition_dim", 0) or 0
        # a label may have the name y
        self.condition = "c" if "c" in self.names else "y"
        if self.condition_dim and self.condition not in self.names:
            raise ValueError(f"{type(model).__name__}: states condition_dim = {self.condition_dim}, but its program "
                             f"has no argument y or c, only {[*self.names]}")  # fmt: skip
        #: sizes of flags and of the condition, where there are these
        self.flagged, self.told_sizes = (model.data_dim,) if flags else (), entering(self.condition_dim)

    def sizes(self, model: Any) -> tuple[int, ...]:
        """Sizes of x, flags and condition, for networks of the guide's own; refuses a model of sequences."""
        if getattr(model, "of_sequences", False):
            raise ValueError(f"{type(model).__name__}: a model of sequences, and this guide reads vectors; "
                             "guides.Smoother, Filter and MeanField read sequences")  # fmt: skip
        return model.data_dim, *self.flagged, *self.told_sizes

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments after x by their names, those that are None left out."""
        names = (*self.names, *(f"argument {i + 2}" for i in range(len(self.names), len(args))))
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return {name: value for name, value in given.items() if value is not None}

    def see(self, guide: Any, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], hint: str) -> Reading:
        """The inputs of one call, checked.

        Args:
            guide: asks, and refuses arguments that are neither mask nor condition.
            hint: words that end the refusal.

        Raises:
            TypeError, ValueError: as `zoo.parts.given.conditions.check_given`; a further argument.
        """
        given = self.bound(args, kwargs)
        mask = given.pop("mask", None) if "mask" in self.names else None
        # a model of the zoo states that it takes no condition, and says so in its own words
        takes = hasattr(guide.model, "condition_dim") and self.condition in self.names
        y = given.pop(self.condition, None) if takes else None
        if given:
            guide.refuse_arguments((), given, hint)
        return self.seen(guide, x, mask, y)

    def seen(self, guide: Any, x: Tensor, mask: Tensor | None, y: Tensor | None) -> Reading:
        """The inputs of one call, checked. Arguments: `zoo.parts.given.conditions.check_given`."""
        return self.read(x, mask, check_given(guide.model, x, mask, y, parameter_of(guide), self.condition))

    def seen_draws(self, guide: Any, x: Tensor, mask: Tensor | None, y: Tensor | None) -> Reading:
        """As `seen`, of x with any axes in front of the batch's, such as draws of it."""
        check_shape(x, guide.model.data_dim, parameter_of(guide), mask)
        return self.read(x, mask, conditions(guide.model, x, y, self.condition))

    def read(self, x: Tensor, mask: Tensor | None, condition: Condition) -> Reading:
        """The inputs of one call whose arguments are checked, the condition as vectors."""
        flags: tuple[Tensor, ...] = ()
        if self.flags:
            flags = (x.new_zeros(x.shape) if mask is None else mask.logical_not().to(x.dtype),)
        return Reading(x if mask is None else zero_filled(x, mask), flags, condition)

    def condition_of(self, beside: Sequence[Tensor]) -> Condition:
        """The condition among the inputs beside x, of which it is the last."""
        return tuple(beside[-1:]) if self.condition_dim else ()

    def zero_filled(self, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """x for a network that is given all arguments: 0 where a mask of its shape hides it."""
        mask = self.bound(args, kwargs).get("mask")
        masked = isinstance(mask, Tensor) and mask.shape == x.shape and mask.dtype == torch.bool
        return zero_filled(x, mask) if masked else x

    def told(self, guide: Any, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Condition:
        """The condition alone, for a guide without networks."""
        y = self.bound(args, kwargs).get(self.condition) if self.condition_dim else None
        return conditions(guide.model, x, y, self.condition)
