"""Traditional variational inference: every data point has variational parameters of its own."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.families.onto import fitting
from guides.guide import Guide
from guides.inputs import Inputs
from zoo.parts.checks import check_offers
from zoo.parts.given.conditions import prior_given


class PerDatum(Guide):
    """q(z_n) = family(z_n; lambda_n), one row lambda_n of a table for each data point n: nothing is amortised.

    Fitted to the end, it is the best that a family can do for a data point, so the amortisation gap is measured against
    it. Weights that a family shares between data points (the autoregressive network of IAF) stay shared; `lambda_n`
    holds the base density and the context of that network.

    References: Hoffman et al. 2013; Cremer, Li and Duvenaud 2018.

    Args:
        model: any model with `latent_dim`.
        num_data: number of data points N.
        family: constructor `(features, context) -> Family`, as in `Amortized`; or a family made with `context=0`, to be
            taken over.
        site: name of the latent site in the model.
        latent_dim: length of z; None: `model.latent_dim`, or that of a family made before.

    Sites: `z` (batch, latent_dim) in `pyro.plate("data", batch)`. `forward(x, index=...)` takes the row numbers of the
    batch in the data set; without them x must be the whole data set, in order. `zoo.infer.fit` and `zoo.infer.terms`
    pass them on.

    Raises:
        ValueError: `family` is a family with a head; a batch comes without row numbers, with another number of them,
            or, on a CPU, with one out of range.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> guides.PerDatum(VAE(784, 20), num_data=100)(torch.zeros(3, 784), index=torch.tensor([7, 8, 42])).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        model,
        num_data: int,
        *,
        family: Callable[[int, int], Family] | Family = Diagonal,
        site: str = "z",
        latent_dim: int | None = None,
    ) -> None:
        super().__init__(model)
        if isinstance(family, Family) and not isinstance(family.head, nn.Identity):
            raise ValueError("PerDatum: family: expected a constructor or a family made with context=0, got a head too")
        self.site, self.inputs = site, Inputs(model)
        # context 0: without a head, the family takes its parameters from the table
        if not isinstance(family, Family):
            if latent_dim is None:
                check_offers("PerDatum", model, "latent_dim", advice="it serves a model with one latent vector")
            family = fitting(family, model, site, model.latent_dim if latent_dim is None else latent_dim, 0)
        self.family = family
        self.table = nn.Parameter(torch.zeros(num_data, self.family.num_parameters))

    @classmethod
    def started_at(cls, model, family: Family, parameters: Tensor, *, site: str = "z") -> "PerDatum":
        """A guide whose densities start at `family.density(parameters)`.

        Args:
            model: the model.
            family: is copied; its head is not used.
            parameters: one row for each data point, `(num_data, num_parameters)`.
            site: name of the latent site in the model.
        """
        guide = cls(model, len(parameters), family=family.headless(), site=site)
        # rows of the dtype and on the device of the parameters, and not of the defaults
        guide.table = nn.Parameter(parameters.detach().clone())
        return guide

    def rows(self, index: Tensor) -> "PerDatum":
        """A guide for the data points `index` alone, started at their parameters."""
        return PerDatum.started_at(self.model, self.family, self.table[index], site=self.site)

    # no argument is refused: the bound fits lambda_n to all of them, and q reads none, not even the values of x
    def forward(self, x: Tensor, *args: Any, index: Tensor | None = None, **kwargs: Any) -> Tensor:
        rows = own_rows("PerDatum", len(self.table), x, index)
        parameters = self.table if rows is None else self.table[rows]
        reads = self.family.uses_prior
        prior = prior_given(self.model.prior, self.inputs.told(self, x, args, kwargs)) if reads else None
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.family(prior, parameters))


def own_rows(guide: str, num_data: int, x: Tensor, index: Tensor | None) -> Tensor | None:
    """The row numbers of a batch, for a guide with parameters for each data point; None: x is all of the data.

    Args:
        guide: name of the guide, for errors.
        num_data: number of data points N.

    Raises:
        ValueError: a batch comes without row numbers, with another number of them, or, on a CPU, with one out of range.
    """
    if index is None and len(x) != num_data:
        raise ValueError(f"{guide}: a batch of {len(x)} rows out of {num_data} data points needs row numbers: index=")
    if index is not None and len(index) != len(x):
        raise ValueError(f"{guide}: index must name the {len(x)} rows of x, got {len(index)} numbers")
    # on a GPU a look at the values would wait for the device at every step
    if index is not None and not index.is_cuda:
        low, high = (int(end) for end in index.aminmax())
        # a negative number would name a row from the end, without a word
        if low < 0 or high >= num_data:
            raise ValueError(f"{guide}: index has row {low if low < 0 else high} of {num_data} data points")
    return index
