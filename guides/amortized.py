"""One latent vector for each data point, inferred by an encoder that all data points share."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.families.onto import fitting
from guides.guide import Guide
from guides.inputs import Inputs
from guides.per_datum import PerDatum
from zoo.parts.checks import check_features, check_offers, check_own
from zoo.parts.given.conditions import Condition, dense, prior_given


class HasLatentVector(Protocol):
    """A model that `Amortized` can serve; families that read the prior also call its `prior()`."""

    data_dim: int
    latent_dim: int


class Amortized(Guide):
    """q(z | x) = family(z; encoder(x)): the encoder is shared by all data points (amortised inference).

    References: Kingma and Welling 2014; missing entries as zeros: Mattei and Frellsen 2019; the families' own.

    Args:
        model: any model with `data_dim` and `latent_dim` (protocol `HasLatentVector`).
        family: constructor `(features, context) -> Family`: `guides.Diagonal` (default), `guides.FullRank`,
            `guides.IAF`, ...; settings by `functools.partial(guides.IAF, num_flows=4)`. Where `model.prior()` is
            positive, bounded, a simplex or an angle, the family is mapped onto that support (`guides.Onto`).
        hidden: widths of the encoder's hidden layers, from x towards z.
        encoder: a network of your own, called with all arguments of the program, x first; returns features
            `(N, context)`. Without it the guide reads x and a model's condition, and refuses all else but a mask.
            Either reads 0 where x is missing.
        context: size of your encoder's features; given exactly if `encoder` is.
        activation: constructor of the nonlinearity.
        site: name of the latent site in the model.
        latent_dim: length of z; None: `model.latent_dim`. For models of several latents (`guides.Factorised`).
        summed: sums z out where its values can be listed, as those of `OneHot` codes can, in objectives of the zoo and
            in `pyro.infer.TraceEnum_ELBO`; the guide draws one where it runs by itself.
        flags: gives the encoder a second input, 1 where an entry of x is missing and 0 elsewhere.

    Sites: `z` (N, latent_dim) in `pyro.plate("data", N)`.

    Raises:
        ValueError: x is not `(N, data_dim)`; the program has further arguments, and there is no `encoder` for them;
            `encoder` comes without `context`, or returns features of another shape.
        TypeError: `family` is not a constructor.

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
        latent_dim: int | None = None,
        summed: bool = False,
        flags: bool = False,
    ) -> None:
        super().__init__(model)
        advice = "it serves a model with one latent vector; hierarchies and sequences have guides of their own"
        read = ["latent_dim"] * (latent_dim is None) + ["data_dim"] * (encoder is None)
        check_offers("Amortized", model, *read, advice=advice)
        check_own("Amortized", encoder=encoder, context=context)
        self.site = site
        self.infer = {"enumerate": "parallel"} if summed else {}  # Pyro's own mark
        self.inputs, self.own = Inputs(model, flags), encoder is not None
        if encoder is not None and flags:
            raise ValueError("Amortized: `flags` are for the guide's own encoder; yours is given the mask itself")
        self.encoder = dense(self.inputs.sizes(model), hidden, activation) if encoder is None else encoder
        self.context: int = hidden[-1] if context is None and hidden else context or model.data_dim
        self.family = fitting(family, model, site, model.latent_dim if latent_dim is None else latent_dim, self.context)

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any):
        """q(z | x) for each row of x: batch shape `(N,)`, event shape `(latent_dim,)`."""
        features, condition = self._features(x, args, kwargs)
        prior = prior_given(self.model.prior, condition) if self.family.uses_prior else None
        return self.family(prior, features)

    def _features(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Condition]:
        if not self.own:
            # a label that the encoder never sees would leave q as wide as without it, and the bound loose
            hint = "Give it an encoder= that takes them, with context=, the size of its output"
            seen = self.inputs.see(self, x, args, kwargs, hint)
            return self.encoder(*seen.entering), seen.condition
        features = self.encoder(self.inputs.zero_filled(x, args, kwargs), *args, **kwargs)
        check_features("encoder", self.encoder, features, (len(x), self.context))
        return features, self.inputs.told(self, x, args, kwargs) if self.family.uses_prior else ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.posterior(x, *args, **kwargs), infer=self.infer)

    @torch.no_grad()
    def per_datum(self, x: Tensor, *args: Any, **kwargs: Any) -> PerDatum:
        """A guide of the same family with parameters of its own for each row of x, started at this guide's."""
        features, _ = self._features(x, args, kwargs)
        return PerDatum.started_at(self.model, self.family, self.family.head(features), site=self.site)
