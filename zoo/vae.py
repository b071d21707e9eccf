"""The variational autoencoder's generative model."""

from collections.abc import Callable, Sequence

import pyro
from torch import Tensor, nn

from zoo.parts.checks import check_rows, parameter_of
from zoo.parts.conditionals import Bernoulli, StandardNormal
from zoo.parts.networks import mlp
from zoo.parts.store_keys import RootModule


class VAE(RootModule):
    """p(x, z) = p(z) p(x | z): a latent vector for each data point, decoded by a multilayer perceptron.

    References: Kingma and Welling 2014; Rezende, Mohamed and Wierstra 2014.

    Args:
        data_dim: size D of a data point.
        latent_dim: size of z.
        hidden: widths of the decoder's hidden layers, from z towards x.
        likelihood: constructor `(in_features, data_dim) -> Module`, whose call gives p(x | h): `Bernoulli` (default),
            `Normal`, `Categorical`, `DiscretizedLogistic` of `zoo.parts.conditionals`, or your own.
        prior: module whose call gives p(z): `StandardNormal(latent_dim)` (default), `MixturePrior`, `FlowPrior`, or
            your own.
        activation: constructor of the nonlinearity.

    Sites: `z` (N, latent_dim), `x` (N, data_dim), both in `pyro.plate("data", N)`.

    Raises:
        TypeError: `likelihood` is no constructor, or `hidden` no sequence of whole numbers.
        ValueError: x is not `(N, data_dim)`, or of another dtype than the parameters.

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
    ) -> None:
        super().__init__("model")
        if not callable(likelihood):
            raise TypeError(f"VAE: likelihood is a constructor such as conditionals.Bernoulli, got {likelihood!r}")
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        self.decoder = mlp(latent_dim, hidden, activation=activation)
        # a constructor, not a module: only here is the width of the last hidden layer known
        self.emission = likelihood(hidden[-1] if hidden else latent_dim, data_dim)

    def likelihood(self, z: Tensor):
        """p(x | z): batch shape that of z without its last axis, event shape `(data_dim,)`."""
        return self.emission(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.data_dim, parameter_of(self))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)
