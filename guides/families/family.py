"""Families: the density q(z | context) of a guide, whatever the guide conditions on.

A family is a head, context -> parameters, and a density, parameters -> distribution; flows are in `flows.py`.
Densities broadcast: parameters `(batch, num_parameters)` serve samples `(particles, batch, features)`, by `expand` (a
plate) or by `rsample((particles,))`. All are reparameterised, start near N(0, I) (within a nat a feature where contexts
are of order one; `Residual` around the prior's mean, `PrecisionWeighted` times the prior), and are fresh objects at
each call: a family holds weights and no cache, so that deepcopy, pickle and reuse at several sites are always safe.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.networks import start_small


class Family(nn.Module, ABC):
    """q(z | prior, context) (abstract): `family(prior, *context)` is a distribution over vectors of length `features`.

    Args:
        features: length of z.
        context: length of the context, all parts together; 0 means that the context handed in *is* the parameters
            (guides with parameters of their own for each data point).
        num_parameters: length of what `density` takes.
        locations: which of these move q about, if any are known to.

    The head starts near zero: every bias at zero, a tenth of torch's weights, but the locations' own in full, so that
    different data have different z from the first step on.

    To write a family, call this constructor and define `density`; all-zero parameters must be near N(0, I).
    """

    #: whether `log_prob` of a value that is not the density's own latest sample is possible. Estimators that score a
    #: sample under frozen parameters ("doubly", "sticking"), grids and contour plots need it.
    scores_foreign_values: ClassVar[bool] = True

    #: whether `density` looks at the prior, so that the guide has to build it.
    uses_prior: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        context: int,
        num_parameters: int,
        *,
        locations: slice = slice(0),
    ) -> None:
        super().__init__()
        if features < 1 or context < 0:
            raise ValueError(f"{type(self).__name__}: features >= 1, context >= 0; got {features}, {context}")
        self.features, self.num_parameters, self.locations = features, num_parameters, locations
        self.head: nn.Module = nn.Linear(context, num_parameters) if context else nn.Identity()
        if isinstance(self.head, nn.Linear):
            # measured by `benchmarks.starts`: with small locations a VAE spends its first epoch on telling data apart,
            # with log scales in full it begins with noise; off-diagonals and flow parameters add up by the hundred
            nn.init.zeros_(self.head.bias)
            start_small(self.head.weight, but=locations)

    def forward(self, prior: Any, *context: Tensor) -> TorchDistribution:
        if len(context) > 1:  # torch.cat does not broadcast: a part may lack the particle axis
            leading = torch.broadcast_shapes(*(part.shape[:-1] for part in context))
            context = (torch.cat([part.expand(*leading, part.shape[-1]) for part in context], -1),)
        parameters = self.head(context[0])
        if parameters.shape[-1] != self.num_parameters:
            raise ValueError(
                f"{type(self).__name__} over {self.features} features takes {self.num_parameters} parameters, "
                f"got {parameters.shape[-1]}"
            )
        return self.density(parameters, prior)

    @abstractmethod
    def density(self, parameters: Tensor, prior: Any) -> TorchDistribution:
        """`(..., num_parameters)` -> batch shape `(...)`, event shape `(features,)`. `prior` may be None or ignored."""


def scatter(num: int, features: int) -> Tensor:
    """`(num, features)`: fixed, distinct points about 1 from the origin: no two components or flows start alike."""
    generator = torch.Generator("cpu").manual_seed(0)
    points = torch.randn(num, features, generator=generator, dtype=torch.float64, device="cpu") / features**0.5
    return points.to(torch.get_default_device(), torch.get_default_dtype())
