"""The sizes and names that guides of hierarchies read from a model."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from zoo.parts.checks import check_offers


class HasLevels(Protocol):
    """A model that guides of hierarchies can serve: p(z_l | h_l) of each level. Levels count from 1, next to the data.

    Optional: `descend(level, above, z)`, h_{l-1} from h_l and z_l, which is z_l otherwise; `above_dims`, the sizes of
    h_1..h_L, those of z_2..z_L and 0 otherwise; `sites`, names of the latents, `z_1`..`z_L` otherwise.
    """

    data_dim: int
    latent_dims: Sequence[int]

    def prior(self, level: int, above: Tensor | None) -> Any:
        """p(z_l | h_l), event `(latent_dims[l - 1],)`; `above` is h_l, None at the top."""
        ...


class Levels(NamedTuple):
    """Sizes of z_1..z_L, sizes of h_1..h_L, names of the sites."""

    latent_dims: tuple[int, ...]
    above_dims: tuple[int, ...]
    sites: tuple[str, ...]


def levels_of(model: Any, guide: str) -> Levels:
    """The levels of a model.

    Args:
        guide: name of the guide, for errors.

    Raises:
        ValueError: the model lacks a part of the protocol, has no level, or states another number of sizes or names.
    """
    name = type(model).__name__
    advice = "guides of hierarchies need a model with data_dim, latent_dims and prior(level, above)"
    check_offers(guide, model, "data_dim", "latent_dims", "prior", advice=advice)
    # looked up by name: a user's model need not inherit anything, nor state more than three parts
    dims = tuple(model.latent_dims)
    found = Levels(dims, tuple(getattr(model, "above_dims", (*dims[1:], 0))),
                   tuple(getattr(model, "sites", [f"z_{level}" for level in range(1, len(dims) + 1)])))  # fmt: skip
    if not dims or {len(part) for part in found} != {len(dims)}:
        raise ValueError(f"{guide}: expected a size and a name for each level of {name}, and at least one level, got "
                         f"latent_dims = {dims}, above_dims = {found.above_dims}, sites = {found.sites}")  # fmt: skip
    return found


def check_inner(levels: Any, model: Any, family: Any) -> None:
    """Checks that a guide of levels serves the hierarchy within a model, `model.inner`, and stands alone.

    Raises:
        ValueError: it does not, or a family is given beside it.
    """
    if family is not None:
        raise ValueError("levels: has families of its own, and `family` would have no use beside it")
    if not callable(getattr(levels, "draw", None)) or levels.model is not getattr(model, "inner", None):
        raise ValueError(f"levels: expected a guide of model.inner, a hierarchy, got {type(levels).__name__}, a guide "
                         "of another")  # fmt: skip
