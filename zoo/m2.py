"""The generative model of semi-supervised learning, M2: a class and a latent vector for each data point."""

from collections.abc import Callable, Mapping

import pyro
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_labels, parameter_of
from zoo.parts.conditionals import Bernoulli
from zoo.parts.conditionals.class_prior import class_prior_or_uniform
from zoo.parts.given.conditions import check_given, condition_size, entering, prior_given, prior_of
from zoo.parts.given.gaps import observe
from zoo.parts.labels import generate_classes, one_hot
from zoo.parts.networks import WithHead
from zoo.parts.networks.stages import StageArgument
from zoo.parts.store_keys import RootModule


class M2(RootModule):
    """p(x, y, z) = p(y) p(z) p(x | y, z): a class y, and a style z that says all of x that y does not.

    Labels are observed where they are given: `forward(x, y)` is a program of p(x, y), `forward(x)` one of p(x). Rows
    with and without labels in one batch are the matter of `zoo.infer.SemiSupervised`.

    References: Kingma, Rezende, Mohamed and Welling 2014.

    Args:
        data_dim: size D of a data point.
        latent_dim: size of z.
        num_classes: C, at least 2.
        hidden: widths of the decoder's hidden layers, from (z, y) towards x, or the constructor of a stage.
        likelihood: constructor `(in_features, data_dim) -> Module` of p(x | h), as of `VAE`.
        prior: module whose call gives p(z); None: `StandardNormal`.
        class_prior: module whose call gives p(y); None: `ClassPrior(num_classes)`, all classes alike.
        activation: constructor of the nonlinearity of a decoder given by widths.
        condition_dim: length of a condition c beside x and y, or its number of classes; None or 0: no condition. With
            one the model is p(x, y, z | c) = p(y) p(z | c) p(x | y, z, c).

    `forward(x, y, mask, c)`: `mask` boolean, of the shape of x, True where observed; c int64 classes `(N,)`, or vectors
    `(N, condition_dim)`.

    Sites: `y` (N,) int64, `z` (N, latent_dim), `x` (N, data_dim), all in `pyro.plate("data", N)`.

    Raises:
        TypeError: `likelihood` is no constructor, or `hidden` neither widths nor a constructor.
        ValueError: a size below 1, fewer than two classes. At each call: x is not `(N, data_dim)`; y is not int64
            `(N,)`, or a class is out of range; a wrong mask or condition, as of `VAE`.

    Example:
        >>> import torch
        >>> from zoo import M2
        >>> latents, x = M2(784, 20, num_classes=10).generate(torch.tensor([3, 3, 8]))
        >>> latents["y"], x.shape
        (tensor([3, 3, 8]), torch.Size([3, 784]))
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        num_classes: int,
        hidden: StageArgument = (400,),
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        prior: nn.Module | None = None,
        class_prior: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        condition_dim: int | None = None,
    ) -> None:
        super().__init__("model")
        check_counts(data_dim=data_dim, latent_dim=latent_dim)
        self.data_dim, self.latent_dim, self.num_classes = data_dim, latent_dim, num_classes
        self.class_prior = class_prior_or_uniform(class_prior, num_classes)
        self.condition_dim = condition_size(condition_dim)
        self.prior = prior_of(prior, latent_dim, self.condition_dim, hidden)
        sizes = (latent_dim, num_classes, *entering(self.condition_dim))
        self.decoder = WithHead(sizes, data_dim, likelihood, hidden, activation)

    def likelihood(self, y: Tensor, z: Tensor, *c: Tensor):
        """p(x | y, z, c), event shape `(data_dim,)`; the axes of y, and those of z but the last, broadcast."""
        return self.decoder(z, one_hot(y, self.num_classes, z), *c)

    def forward(
        self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        condition = check_given(self, x, mask, c, parameter_of(self), "c")
        check_labels(y, len(x), self.num_classes)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            z = pyro.sample("z", prior_given(self.prior, condition))
            return observe("x", self.likelihood(y, z, *condition), x, mask)

    def generate(
        self,
        y: Tensor | None = None,
        *,
        num: int | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        c: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New data of given classes: the latents, site -> draws, and x `(N, data_dim)`, drawn from p(x | y, z).

        Args:
            y: classes, int64 `(N,)`; None: drawn from p(y).
            num: N, where y is None.
            fixed: latents that are given: site -> `(N, size)`, or `(size,)` for all: the style of one row, say.
            c: the condition of each, as in `forward`; or one for all: a class `()`, a vector `(condition_dim,)`.

        Raises:
            TypeError, ValueError: neither or both of y and num; wrong classes; an unknown site or a value of another
                shape.
        """
        return generate_classes(self, {"z": self.latent_dim}, y, num, fixed, c)
