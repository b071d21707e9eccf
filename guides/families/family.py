"""The base class of families, and fixed points from which parts of a density start.

A family is a head, context -> parameters, and a density, parameters -> distribution. Parameters of shape
`(batch, num_parameters)` serve samples `(particles, batch, features)`, by `expand` or by `rsample((particles,))`.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.networks import start_small
from zoo.parts.recorded import Recorded
from zoo.parts.recorded.recorded import recorded_with


class Family(Recorded, nn.Module, ABC):
    """q(z | prior, context) (abstract): `family(prior, *context)` is a reparameterised distribution over z.

    To write a family, call this constructor and define `density`, such that all-zero parameters give a density near
    N(0, I). A family holds weights and no cache: each call makes a new distribution, so that one family may be copied,
    pickled, and used at several sites.

    Args:
        features: length of z.
        context: length of the context, all parts together. 0: there is no head, and the context handed in is the
            parameters themselves, as in guides with parameters of their own for each data point.
        num_parameters: number of parameters that `density` takes.
        locations: the means among the parameters. Their weights in the head start as torch's; all other weights start
            at a tenth of torch's, and every bias at zero.

    Raises:
        ValueError: features is below 1, or context below 0.
    """

    #: tells whether `log_prob` scores any value, not only the density's own latest sample. Estimators that score a
    #: sample under frozen parameters ("doubly", "sticking"), grids and contour plots need it.
    scores_foreign_values: bool = True

    #: tells whether the density is one over all of R^d, which a guide may map onto the support of a prior (`Onto`).
    over_reals: ClassVar[bool] = True

    #: tells whether `density` reads the prior, so that the guide has to build it.
    uses_prior: bool = False

    def __init__(self, features: int, context: int, num_parameters: int, *, locations: slice = slice(0)) -> None:
        super().__init__()
        if features < 1 or context < 0:
            raise ValueError(f"{type(self).__name__}: features >= 1, context >= 0; got {features}, {context}")
        self.features, self.num_parameters, self.locations = features, num_parameters, locations
        self.head: nn.Module = nn.Linear(context, num_parameters) if context else nn.Identity()
        if isinstance(self.head, nn.Linear):
            # Measured by `benchmarks.starts`: with small locations a VAE spends its first epoch on telling data apart;
            # with log scales in full it begins with noise; off-diagonals and flow parameters add up by the hundred.
            nn.init.zeros_(self.head.bias)
            start_small(self.head.weight, but=locations)

    def forward(self, prior: Any, *context: Tensor) -> TorchDistribution:
        """q(z | prior, context): batch shape `(...)`, event shape `(features,)`.

        Args:
            prior: p(z) at z's parents; may be None for a family whose `uses_prior` is False.
            context: one or more tensors `(..., size)`, joined along the last axis; leading axes are broadcast.

        Raises:
            ValueError: without a head the context does not have `num_parameters` entries.
        """
        if len(context) > 1:
            # torch.cat does not broadcast: a part may lack the particle axis
            leading = torch.broadcast_shapes(*(part.shape[:-1] for part in context))
            context = (torch.cat([part.expand(*leading, part.shape[-1]) for part in context], -1),)
        parameters = self.head(context[0])
        if parameters.shape[-1] != self.num_parameters:
            raise ValueError(
                f"{type(self).__name__} over {self.features} features takes {self.num_parameters} parameters, "
                f"got {parameters.shape[-1]}"
            )
        return self.density(parameters, prior)

    def headless(self) -> Self:
        """A copy without a head, as if made with `context=0`: it is called with the parameters themselves."""
        family = copy.deepcopy(self)
        family.head = nn.Identity()
        recorded_with(family, context=0)
        return family

    @abstractmethod
    def density(self, parameters: Tensor, prior: Any) -> TorchDistribution:
        """The density of given parameters: `(..., num_parameters)` -> batch shape `(...)`, event shape `(features,)`.

        `prior` is None where the guide has built none.
        """

    @staticmethod
    def built(family: Any, features: int, context: int) -> "Family":
        """`family(features, context)`, for guides that are given a constructor.

        Raises:
            TypeError: `family` is no constructor, such as a family that is built already, or builds something else.
        """
        if isinstance(family, nn.Module) or not callable(family):
            raise TypeError(f"family: expected a constructor such as guides.Diagonal, got {family!r}")
        found = family(features, context)
        if not isinstance(found, Family):
            raise TypeError(f"family: expected a constructor of a guides.Family, got one of {type(found).__name__}")
        return found


def scatter(num: int, features: int) -> Tensor:
    """Distinct points about 1 from the origin, `(num, features)`, the same at every call."""
    # fixed and in double precision: they are no part of the state dict, so a loaded family must find the same points
    generator = torch.Generator("cpu").manual_seed(0)
    points = torch.randn(num, features, generator=generator, dtype=torch.float64, device="cpu") / features**0.5
    return points.to(torch.get_default_device(), torch.get_default_dtype())
