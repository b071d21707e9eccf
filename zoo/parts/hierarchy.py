"""A hierarchy of latents: the conditionals of each level, stated by a model, and the program over all levels."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo.parts.checks import check_built_for, check_counts, expand_fixed, parameter_of
from zoo.parts.conditionals import Normal
from zoo.parts.given.conditions import Condition, check_given, condition_size, rows_for
from zoo.parts.given.gaps import observe
from zoo.parts.store_keys import RootModule

#: p(z_l | h_l) = N(z_l; W h_l + b, diag(exp(V h_l + c))^2), of models that do not say otherwise
GAUSSIAN = partial(Normal, heteroscedastic=True)


class Hierarchy(RootModule):
    """p(x, z) = prod_l p(z_l | h_l) p(x | h_0), h_{l-1} = f_l(h_l, z_l), h_L is nothing: latents in levels (abstract).

    Levels count from 1, next to the data. h_l is one tensor, all that level l knows of the levels above it: z_{l+1},
    features of it, or a deterministic path down from the top. A model states `prior`, `descend` and `likelihood`.
    Methods that guides call too, `prior` and `descend`, are marked `once` (`zoo.parts.once`): guide and model then run
    each network a single time in one evaluation.

    Args:
        data_dim: size D of a data point.
        latent_dims: sizes of z_1..z_L.
        condition_dim: length of a condition y, or its number of classes; None or 0: no condition. With one, `prior` and
            `descend` are called with y `(N, condition_dim)` as a last argument.

    `forward(x, mask, y)`: `mask` boolean, of the shape of x, True where observed; y int64 classes `(N,)`, or vectors.

    Attributes:
        above_dims: sizes of h_1..h_L, the last being 0; those of z_2..z_L unless the model states others.
        sites: names of the latents, `z_1`..`z_L` unless the model states others.
        layers: the sites layer by layer, one for each unless the model states others (BIVA: pairs).

    Sites, in `pyro.plate("data", N)`: `z_l` (N, latent_dims[l - 1]), drawn from the top down; `x` (N, data_dim).

    Raises:
        TypeError: a subclass leaves one of the three methods open.
        ValueError: no level, or a size below 1. At each call: x is not `(N, data_dim)`, or of another dtype; a
            wrong mask or condition, as of `VAE`.

    Example:
        >>> import guides, torch
        >>> from pyro.distributions import Normal
        >>> from zoo.parts.hierarchy import Hierarchy
        >>> from zoo.parts.once import once
        >>> class Walk(Hierarchy):
        ...     def prior(self, level, above):
        ...         return Normal(torch.zeros(2) if above is None else above, 1.0).to_event(1)
        ...     @once
        ...     def descend(self, level, above, z):
        ...         return z.tanh()
        ...     def likelihood(self, above):
        ...         return Normal(above, 0.1).to_event(1)
        >>> model = Walk(2, (2, 2, 2))
        >>> model.generate(5)[1].shape
        torch.Size([5, 2])
        >>> list(guides.TopDown(model)(torch.zeros(3, 2)))
        ['z_3', 'z_2', 'z_1']
    """

    def __init__(self, data_dim: int, latent_dims: Sequence[int], *, condition_dim: int | None = None) -> None:
        super().__init__("model")
        # PyroModule's metaclass is not that of abstract classes, which would refuse by itself
        names = ("descend", "likelihood", "prior")
        left = [name for name in names if getattr(getattr(type(self), name), "__isabstractmethod__", False)]
        if left:
            raise TypeError(f"Hierarchy: abstract; {type(self).__name__} states neither {' nor '.join(left)}")
        if not len(latent_dims):
            raise ValueError(f"latent_dims: expected a size for each level, at least one, got {latent_dims!r}")
        check_counts(data_dim=data_dim, **{f"latent_dims[{i}]": size for i, size in enumerate(latent_dims)})
        self.data_dim, self.latent_dims = data_dim, tuple(latent_dims)
        self.condition_dim = condition_size(condition_dim)
        self.above_dims: tuple[int, ...] = (*self.latent_dims[1:], 0)
        self.sites: tuple[str, ...] = tuple(f"z_{level}" for level in range(1, len(self.latent_dims) + 1))
        self.layers: tuple[tuple[str, ...], ...] = tuple((site,) for site in self.sites)

    @abstractmethod
    def prior(self, level: int, above: Tensor | None, *y: Tensor) -> TorchDistribution:
        """p(z_l | h_l, y), event `(latent_dims[l - 1],)`; `above` is h_l, None at the top; y only with a condition."""

    @abstractmethod
    def descend(self, level: int, above: Tensor | None, z: Tensor, *y: Tensor) -> Tensor:
        """h_{l-1}, from h_l, z_l and the condition y, if there is one; leading axes broadcast."""

    @abstractmethod
    def likelihood(self, above: Tensor) -> TorchDistribution:
        """p(x | h_0), event `(data_dim,)`."""

    def forward(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Runs the generative program: samples the levels from the top down and x, returns x."""
        condition = check_given(self, x, mask, y, parameter_of(self))
        with pyro.plate("data", len(x)):
            return self.draw(x, mask, condition)

    def draw(self, x: Tensor, mask: Tensor | None, condition: Condition) -> Tensor:
        """Samples the levels and x, within the plate; the arguments are checked, the condition's axes broadcast."""
        above: Any = None
        for level in range(len(self.sites), 0, -1):
            z = pyro.sample(self.sites[level - 1], self.prior(level, above, *condition))
            above = self.descend(level, above, z, *condition)
        return observe("x", self.likelihood(above), x, mask)

    @torch.no_grad()
    def generate(
        self,
        num: int,
        temperature: float = 1.0,
        fixed: Mapping[str, Tensor] | None = None,
        y: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New data: the latents, site -> `(num, size)`, and x `(num, data_dim)`, drawn from p(x | z).

        Args:
            num: number of data points.
            temperature: factor of each latent's distance from the mean of p(z_l | h_l), which for a Normal is a factor
                of its standard deviation; 0 takes the means. Fixed latents and x are left as they are.
            fixed: latents that are given: site -> `(num, size)`, or `(size,)` for all. The levels below are drawn anew.
            y: the condition of each data point, as in `forward` with N = num; or one for all: a class `()`, a vector
                `(condition_dim,)`.

        Raises:
            TypeError, ValueError: num below 1, a negative or infinite temperature; a condition as in `forward`; an
                unknown site, or a value of another shape.
            NotImplementedError: a temperature other than 1 and a p(z_l | h_l) without a mean (flows).
        """
        check_counts(num=num)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number >= 0, got {temperature}")
        sizes = dict(zip(self.sites, self.latent_dims, strict=True))
        given = expand_fixed(type(self).__name__, sizes, num, fixed, parameter_of(self))
        condition = rows_for(self, num, y, parameter_of(self))
        latents: dict[str, Tensor] = {}
        above: Any = None
        for level in range(len(self.sites), 0, -1):
            site = self.sites[level - 1]
            p = self.prior(level, above, *condition)
            latents[site] = z = given[site] if site in given else self._draw(p, num, temperature)
            above = self.descend(level, above, z, *condition)
        return latents, self.likelihood(above).sample()

    def _draw(self, p: Any, num: int, temperature: float) -> Tensor:
        # the top's density has no batch axis yet; all others have that of h_l
        z = p.expand((num,)).sample()
        return z if temperature == 1 else torch.lerp(p.mean.expand_as(z), z, temperature)

    def check_guide(self, guide: Any) -> None:
        """Refuses a guide that was built for a hierarchy of other sizes."""
        # any callable is a guide, and only guides of hierarchies are built for levels
        other = getattr(guide, "model", None)
        if not hasattr(other, "latent_dims"):
            return
        check_built_for(guide, other, self, "data_dim", "latent_dims", "above_dims", "sites", "condition_dim")
