"""The zero-gap guide of a model whose posterior is known."""

from typing import Any, Protocol

import pyro
from torch import Tensor

from guides.guide import Guide


class HasPosterior(Protocol):
    """What `Exact` reads: `posterior(x, ...)`, the exact p(z | x), batch shape `(N,)`."""

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...


class Exact(Guide):
    """q(z | x) = p(z | x): with it the ELBO and every importance-weighted bound equal log p(x), whatever the seed.

    Args:
        model: any model with `posterior(x, ...)` (protocol `HasPosterior`).
        site: name of the latent site in the model.

    Example:
        >>> import guides
        >>> from zoo import PPCA
        >>> guide = guides.Exact(PPCA(5, 2))
    """

    def __init__(self, model: HasPosterior, *, site: str = "z") -> None:
        super().__init__(model)
        if not callable(getattr(model, "posterior", None)):
            raise ValueError(f"Exact: {type(model).__name__} offers no posterior(x); use guides.Amortized")
        self.site = site

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any):
        return self.model.posterior(x, *args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.posterior(x, *args, **kwargs))
