"""One level of a guide of hierarchies: its network and its density."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zoo.parts.networks import MultiInput, start_small
from zoo.parts.recorded import Recorded


class Level(Recorded, nn.Module):
    """q(z_l | d_l, h_l) = family(z_l; p(z_l | h_l), W d_l + V h_l + b), d_l the features that a stage makes.

    Args:
        stage: the network up to this level.
        family: without a head of its own (context 0): the level gives it the parameters.
        told: size of h_l where it enters the parameters, else 0.
        before: name of z_l where it is drawn before the levels above it, so that no p(z_l | h_l) is known yet.

    Raises:
        ValueError: the family looks at a prior that is not known yet.
    """

    def __init__(self, stage: Any, family: Any, told: int, before: str | None) -> None:
        super().__init__()
        if before is not None and family.uses_prior:
            raise ValueError(
                f"family: {type(family).__name__} looks at p({before} | ...), which is not known yet when {before} is "
                "drawn, before the levels above it: use TopDown or Ladder, or a family that does not look"
            )
        self.stage, self.family, self.told = stage, family, told
        self.head = MultiInput((stage.size, told) if told else (stage.size,), family.num_parameters)
        # starts as a family's own head does; h_l, not yet of any meaning, starts with a small say in everything
        layers: Any = self.head.layers
        for layer, locations in zip(layers, (family.locations, slice(0)), strict=False):
            start_small(layer.weight, but=locations)
        nn.init.zeros_(layers[0].bias)

    def density(self, prior: Any, features: Tensor, above: Tensor | None, offset: Tensor | None) -> Any:
        """q(z_l | d_l, h_l), event `(latent_dim,)`; the offset is added to the parameters."""
        parameters = self.head(features, above) if self.told else self.head(features)
        return self.family(prior, parameters if offset is None else parameters + offset)


class Foot(int):
    """The size of x while the sizes of a hierarchy climb: an object of its own, that no other size is taken for."""


def with_flags(inputs: Sequence[Any], data: Any, x: Any, flags: Sequence[Any]) -> list[Any]:
    """The inputs of a level's network, x in place of `data`, with flags after it."""
    return [part for value in inputs for part in ((x, *flags) if value is data else (value,))]
