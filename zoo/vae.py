"""The variational autoencoder's generative model."""

from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_features, check_own, parameter_of
from zoo.parts.conditionals import Bernoulli
from zoo.parts.given.conditions import check_given, condition_size, dense, entering, prior_given, prior_of, rows_for
from zoo.parts.given.gaps import observe
from zoo.parts.store_keys import RootModule


class VAE(RootModule):
    """p(x, z) = p(z) p(x | z): a latent vector for each data point, decoded by a multilayer perceptron.

    With `condition_dim` it is p(x, z | y) = p(z | y) p(x | z, y), the conditional VAE: y is given in every call. With a
    mask only the observed entries of x are scored, and none of the others is seen: IWELBO is then the MIWAE bound on
    log p(x_observed), and `zoo.infer.impute` fills the gaps.

    References: Kingma and Welling 2014; Rezende, Mohamed and Wierstra 2014. Conditions: Sohn, Lee and Yan 2015. Missing
    entries: Mattei and Frellsen 2019.

    Args:
        data_dim: size D of a data point.
        latent_dim: size of z.
        hidden: widths of the decoder's hidden layers, from z towards x; unused where the decoder is your own.
        likelihood: constructor `(in_features, data_dim) -> Module`, whose call gives p(x | h): `Bernoulli` (default),
            `Normal`, `Categorical`, `DiscretizedLogistic`, `PixelCNN` of `zoo.parts.conditionals`, or your own.
        prior: module whose call gives p(z): `StandardNormal(latent_dim)` (default), `MixturePrior`, `FlowPrior`,
            `MAFPrior`, or your own. With a condition the default is a Gaussian by a network of y, as wide as the
            decoder; a module of yours is called with y, `(N, condition_dim)`, if it takes an argument.
        activation: constructor of the nonlinearity.
        condition_dim: length of the condition y, or its number of classes; None or 0: no condition.
        decoder: a network of your own, called with z, with a condition also with y as vectors; returns features h
            `(..., features)`, such as `zoo.parts.networks.ConvolutionalDecoder`.
        features: size of your decoder's features, a `Maps` for feature maps; given exactly if `decoder` is.

    `forward(x, mask, y)`: x `(N, data_dim)`; `mask` boolean, of the shape of x, True where observed; y the condition,
    int64 classes `(N,)`, made one-hot, or vectors `(N, condition_dim)`.

    Sites: `z` (N, latent_dim), `x` (N, data_dim), both in `pyro.plate("data", N)`.

    Raises:
        TypeError: `likelihood` is no constructor, or `hidden` no sequence of whole numbers.
        ValueError: no width in `hidden` with a condition; `decoder` comes without `features`, or returns features of
            another size. At each call: x is not `(N, data_dim)`, or of another dtype
            than the parameters; a mask of another shape or dtype, or of entries that the likelihood does not make
            independent; no condition where there is `condition_dim`, or one where there is none.

    Example:
        >>> import pyro, torch
        >>> from zoo import VAE
        >>> pyro.poutine.uncondition(VAE(784, 20))(torch.zeros(3, 784)).shape
        torch.Size([3, 784])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (400,),
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        prior: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        condition_dim: int | None = None,
        decoder: nn.Module | None = None,
        features: int | None = None,
    ) -> None:
        super().__init__("model")
        if not callable(likelihood):
            raise TypeError(f"VAE: likelihood is a constructor such as conditionals.Bernoulli, got {likelihood!r}")
        check_own("VAE", decoder=decoder, features=features)
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.condition_dim = condition_size(condition_dim)
        self.prior = prior_of(prior, latent_dim, self.condition_dim, hidden)
        sizes = latent_dim, *entering(self.condition_dim)
        self.decoder = dense(sizes, hidden, activation) if decoder is None else decoder
        # a constructor, not a module: only here is the width of the last hidden layer known
        self.features = (hidden[-1] if hidden else latent_dim) if features is None else features
        self.emission = likelihood(self.features, data_dim)

    def likelihood(self, z: Tensor, *y: Tensor):
        """p(x | z), with a condition p(x | z, y), y as vectors: event `(data_dim,)`, other axes broadcast."""
        h = self.decoder(z, *y)
        lead = z.shape[:-1] if not y else torch.broadcast_shapes(z.shape[:-1], *(part.shape[:-1] for part in y))
        check_features("decoder", self.decoder, h, (*lead, int(self.features)))
        return self.emission(h)

    def forward(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        condition = check_given(self, x, mask, y, parameter_of(self))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior_given(self.prior, condition))
            return observe("x", self.likelihood(z, *condition), x, mask)

    @torch.no_grad()
    def generate(self, num: int, y: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """New data: the latents, site -> `(num, size)`, and x `(num, data_dim)`, drawn from p(x | z, y).

        Args:
            num: number of data points.
            y: the condition of each, as in `forward` with N = num; or one for all: a class `()`, a vector
                `(condition_dim,)`.

        Raises:
            TypeError, ValueError: num below 1; a condition as in `forward`.
        """
        check_counts(num=num)
        condition = rows_for(self, num, y, parameter_of(self))
        z = prior_given(self.prior, condition).expand((num,)).sample()
        return {"z": z}, self.likelihood(z, *condition).sample()
