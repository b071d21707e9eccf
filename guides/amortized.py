"""One latent vector for each data point, inferred by an encoder."""

from collections.abc import Callable, Sequence
from typing import Protocol

import pyro
import torch
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.guide import Guide
from guides.per_datum import PerDatum
from zoo.parts.networks import mlp


class HasLatentVector(Protocol):
    """What `Amortized` reads from a model: the sizes of x and z (and `prior()`, for families that use it)."""

    data_dim: int
    latent_dim: int


class Amortized(Guide):
    """q(z | x) = family(z; encoder(x)): the encoder is shared by all data points (amortised inference).

    References: Kingma and Welling 2014; the families' own.

    Args:
        model: any model with `data_dim` and `latent_dim` (protocol `HasLatentVector`).
        family: constructor `(features, context) -> Family`: `guides.Diagonal` (default), `guides.FullRank`,
            `guides.IAF`, ...; settings by `functools.partial(guides.IAF, num_flows=4)`.
        hidden: widths of the encoder's hidden layers, from x towards z.
        encoder: a network of your own, x -> features; then `context` is the size of its output.
        activation: constructor of the nonlinearity.
        site: name of the latent site in the model.

    Sites: `z` (N, latent_dim) in `pyro.plate("data", N)`.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> guides.Amortized(VAE(784, 20), family=guides.FullRank).posterior(torch.zeros(3, 784)).shape()
        torch.Size([3, 20])
    """

    def __init__(
        self,
        model: HasLatentVector,
        *,
        family: Callable[[int, int], Family] = Diagonal,
        hidden: Sequence[int] = (400,),
        encoder: nn.Module | None = None,
        context: int | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        site: str = "z",
    ) -> None:
        super().__init__(model)
        if (encoder is None) != (context is None):
            raise ValueError("Amortized: `encoder` and `context` (the size of its output) come together")
        if not callable(family):
            raise TypeError(f"Amortized: family is a constructor such as guides.IAF, got {family!r}")
        self.site = site
        self.encoder = mlp(model.data_dim, hidden, activation=activation) if encoder is None else encoder
        if context is None:
            context = hidden[-1] if hidden else model.data_dim
        self.family = family(model.latent_dim, context)

    def posterior(self, x: Tensor):
        """q(z | x) for each row of x: batch shape `(N,)`, event shape `(latent_dim,)`."""
        if x.shape[-1] != self.model.data_dim:
            raise ValueError(
                f"Amortized: the last axis of x must be data_dim = {self.model.data_dim}, got shape {tuple(x.shape)}"
            )
        prior = self.model.prior() if self.family.uses_prior else None
        return self.family(prior, self.encoder(x))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.posterior(x))

    @torch.no_grad()
    def per_datum(self, x: Tensor) -> PerDatum:
        """A guide of the same family with own parameters for each row of x, started at the amortised solution."""
        return PerDatum.started_at(self.model, self.family, self.family.head(self.encoder(x)), site=self.site)
