"""Auxiliary and skip deep generative models: a class, a latent vector and an auxiliary vector for each data point."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_labels, parameter_of
from zoo.parts.conditionals import Bernoulli
from zoo.parts.conditionals.class_prior import class_prior_or_uniform
from zoo.parts.given.conditions import check_given, condition_size, entering, prior_given, prior_of
from zoo.parts.given.gaps import observe
from zoo.parts.hierarchy import GAUSSIAN
from zoo.parts.labels import generate_classes, one_hot
from zoo.parts.networks import WithHead
from zoo.parts.networks.stages import StageArgument
from zoo.parts.store_keys import RootModule


class ADGM(RootModule):
    """p(x, y, z, a) = p(y) p(z) p(x | y, z) p(a | x, y, z); with `skip` p(y) p(z) p(a | y, z) p(x | a, y, z) (SDGM).

    Without `skip` the auxiliary a is drawn after x and says nothing about x: p(x, y) is that of `M2`. The auxiliary
    serves the guide, whose q(y, z | x) = int q(a | x) q(y | a, x) q(z | a, y, x) da is a mixture over a, and so more
    than a Gaussian for each class. With `skip` a is a second layer of latents, too.

    References: Maaloe, Sonderby, Sonderby and Winther 2016.

    Args:
        data_dim: size D of a data point.
        latent_dim: size of z.
        num_classes: C, at least 2.
        hidden: widths of the hidden layers of both networks, or the constructor of a stage.
        skip: lets x depend on a (SDGM).
        auxiliary_dim: size of a; None: latent_dim.
        likelihood: constructor `(in_features, data_dim) -> Module` of p(x | h), as of `VAE`.
        conditional: constructor `(in_features, auxiliary_dim) -> Module` of p(a | h).
        prior: module whose call gives p(z); None: `StandardNormal`.
        class_prior: module whose call gives p(y); None: `ClassPrior(num_classes)`, all classes alike.
        activation: constructor of the nonlinearity of networks given by widths.
        condition_dim: length of a condition c beside x and y, or its number of classes; None or 0: no condition. With
            one all of the model's densities but p(y) depend on c.

    `forward(x, y, mask, c)`: `mask` boolean, of the shape of x, True where observed; c int64 classes `(N,)`, or vectors
    `(N, condition_dim)`.

    Sites: `y` (N,) int64, `z` (N, latent_dim), `a` (N, auxiliary_dim), `x` (N, data_dim), in `pyro.plate("data", N)`.

    Raises:
        TypeError, ValueError: as `M2`.

    Example:
        >>> import torch
        >>> from zoo import ADGM
        >>> latents, x = ADGM(784, 20, num_classes=10, skip=True).generate(torch.tensor([3, 3, 8]))
        >>> {site: tuple(draws.shape) for site, draws in latents.items()}
        {'y': (3,), 'z': (3, 20), 'a': (3, 20)}
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        num_classes: int,
        hidden: StageArgument = (400,),
        skip: bool = False,
        *,
        auxiliary_dim: int | None = None,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        conditional: Callable[[int, int], nn.Module] = GAUSSIAN,
        prior: nn.Module | None = None,
        class_prior: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        condition_dim: int | None = None,
    ) -> None:
        super().__init__("model")
        auxiliary_dim = latent_dim if auxiliary_dim is None else auxiliary_dim
        check_counts(data_dim=data_dim, latent_dim=latent_dim, auxiliary_dim=auxiliary_dim)
        self.data_dim, self.latent_dim, self.auxiliary_dim = data_dim, latent_dim, auxiliary_dim
        self.num_classes, self.skip = num_classes, skip
        self.class_prior = class_prior_or_uniform(class_prior, num_classes)
        self.condition_dim = condition_size(condition_dim)
        told = entering(self.condition_dim)
        self.prior = prior_of(prior, latent_dim, self.condition_dim, hidden)
        above = (latent_dim, num_classes)
        of_x, of_a = ((*above, auxiliary_dim), above) if skip else (above, (*above, data_dim))
        self.decoder = WithHead((*of_x, *told), data_dim, likelihood, hidden, activation)
        self.reverse = WithHead((*of_a, *told), auxiliary_dim, conditional, hidden, activation)

    def likelihood(self, y: Tensor, z: Tensor, *a: Tensor) -> Any:
        """p(x | y, z), with `skip` p(x | y, z, a), a condition c after them; event `(data_dim,)`."""
        return self.decoder(z, one_hot(y, self.num_classes, z), *a)

    def auxiliary(self, y: Tensor, z: Tensor, *x: Tensor) -> Any:
        """p(a | y, z, x), with `skip` p(a | y, z), a condition c after them; event `(auxiliary_dim,)`."""
        return self.reverse(z, one_hot(y, self.num_classes, z), *x)

    def forward(
        self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        condition = check_given(self, x, mask, c, parameter_of(self), "c")
        check_labels(y, len(x), self.num_classes)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            z = pyro.sample("z", prior_given(self.prior, condition))
            if self.skip:
                a = pyro.sample("a", self.auxiliary(y, z, *condition))
                return observe("x", self.likelihood(y, z, a, *condition), x, mask)
            # the site's value and not the argument: where x is generated, a depends on the x that was drawn
            x = observe("x", self.likelihood(y, z, *condition), x, mask)
            pyro.sample("a", self.auxiliary(y, z, x, *condition))
            return x

    def generate(
        self,
        y: Tensor | None = None,
        *,
        num: int | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        c: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New data of given classes: the latents, site -> draws, and x `(N, data_dim)`. Arguments: `M2.generate`."""
        return generate_classes(self, {"z": self.latent_dim, "a": self.auxiliary_dim}, y, num, fixed, c)
