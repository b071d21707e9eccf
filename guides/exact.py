"""The guide of a model whose posterior is known exactly."""

from typing import Any, Protocol

import pyro
from torch import Tensor

from guides.guide import Guide
from zoo.parts.checks import check_offers


class HasPosterior(Protocol):
    """A model that `Exact` can serve."""

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """p(z | x), exact: batch shape `(N,)`. Takes the arguments of the model's program."""
        ...


class Exact(Guide):
    """q(z | x) = p(z | x): with it the ELBO and every importance-weighted bound equal log p(x), whatever the seed.

    A discrete latent whose values can be listed is marked to be summed out (`zoo.infer.Terms`).

    Args:
        model: any model with `posterior(x, ...)` (protocol `HasPosterior`).
        site: name of the latent site in the model.

    Sites: `z`, in `pyro.plate("data", N)`.

    Raises:
        ValueError: the model has no method `posterior`.

    Example:
        >>> import torch, guides
        >>> from zoo import PPCA
        >>> guides.Exact(PPCA(5, 2)).posterior(torch.zeros(3, 5)).shape()
        torch.Size([3, 2])
    """

    def __init__(self, model: HasPosterior, *, site: str = "z") -> None:
        super().__init__(model)
        check_offers("Exact", model, "posterior", advice="posterior(x) gives the exact one; use guides.Amortized, "
                     "or guides.Smoother for sequences")  # fmt: skip
        self.site = site

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any):
        """p(z | x), by the model's own method, with all arguments of the program."""
        return self.model.posterior(x, *args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        posterior = self.posterior(x, *args, **kwargs)
        # Summed out, the values of a discrete latent give exact gradients; drawn, they would give none.
        infer = {"enumerate": "parallel"} if posterior.has_enumerate_support else {}
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, posterior, infer=infer)
