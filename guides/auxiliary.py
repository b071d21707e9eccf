"""A guide with an auxiliary variable: a mixture over it is more than a density of its family."""

from collections.abc import Callable
from typing import Any, Protocol

import pyro
from pyro.distributions import Categorical
from torch import Tensor, nn

from guides.amortized import HasLatentVector
from guides.families import Diagonal, Family
from guides.families.onto import fitting
from guides.guide import Guide
from guides.inputs import Inputs
from zoo.parts.checks import check_labels, check_offers
from zoo.parts.given.conditions import prior_given
from zoo.parts.labels import draws_of_classes, mean_over_draws, one_hot, over_classes, predicted
from zoo.parts.networks import WithHead
from zoo.parts.networks.stages import StageArgument, build_stage


class HasAuxiliary(HasLatentVector, Protocol):
    """A model that `Auxiliary` can serve: `ADGM`, or any model in `WithAuxiliary`; optional: `num_classes`."""

    auxiliary_dim: int


class Auxiliary(Guide):
    """q(a | x) q(y | a, x) q(z | a, y, x), or q(a | x) q(z | a, x) where the model has no classes.

    One draw of a serves all classes, which are summed out where no label is given. q(y, z | x) is a mixture over a.

    References: Ranganath, Tran and Blei 2016; Maaloe, Sonderby, Sonderby and Winther 2016.

    Args:
        model: any model with `data_dim`, `latent_dim` and `auxiliary_dim` (protocol `HasAuxiliary`).
        family: constructor `(features, context) -> Family` of q(z | a, y, x).
        auxiliary_family: constructor of q(a | x), of a family that does not read the prior.
        hidden: widths of the hidden layers of the two or three networks, or the constructor of a stage.
        activation, site, flags: as of `Amortized`.

    Sites, in `pyro.plate("data", N)`: `a` (N, auxiliary_dim); `y` (N,), where no label is given; `z` (N, latent_dim).

    Raises:
        TypeError, ValueError: as `WithHead`; no `auxiliary_dim`; a family of a that reads the prior; as of `Labelled`.

    Example:
        >>> import torch, guides
        >>> from zoo import ADGM
        >>> guides.Auxiliary(ADGM(784, 20, num_classes=10)).predict(torch.zeros(3, 784)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        model: HasAuxiliary,
        *,
        family: Callable[[int, int], Family] = Diagonal,
        auxiliary_family: Callable[[int, int], Family] = Diagonal,
        hidden: StageArgument = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        site: str = "z",
        flags: bool = False,
    ) -> None:
        super().__init__(model)
        advice = "it needs an auxiliary variable: zoo.WithAuxiliary(model, reverse)"
        check_offers("Auxiliary", model, "auxiliary_dim", "data_dim", "latent_dim", advice=advice)
        self.site, self.num_classes, self.inputs = site, getattr(model, "num_classes", 0), Inputs(model, flags)
        read = self.inputs.sizes(model)
        sizes, self.reader = (*read, model.auxiliary_dim), build_stage(hidden, read, activation, "hidden")
        self.auxiliary_family = auxiliary_family(model.auxiliary_dim, self.reader.size)
        if (found := self.auxiliary_family).uses_prior:
            raise ValueError(f"auxiliary_family: {type(found).__name__} reads the prior, and that of a depends on z, "
                             "drawn after a")  # fmt: skip
        if self.num_classes:
            self.logits = WithHead(sizes, self.num_classes, nn.Linear, hidden, activation)
            sizes += (self.num_classes,)
        self.encoder = build_stage(hidden, sizes, activation, "hidden")
        self.family = fitting(family, model, site, model.latent_dim, self.encoder.size)

    def auxiliary(self, x: Tensor, *beside: Tensor) -> Any:
        """q(a | x), event `(auxiliary_dim,)`; `beside`: flags and condition, where there are these."""
        return self.auxiliary_family(None, self.reader(x, *beside))

    def classes(self, x: Tensor, a: Tensor, *beside: Tensor) -> Categorical:
        """q(y | a, x); leading axes broadcast, `beside` as in `auxiliary`."""
        return over_classes(self.logits(x, *beside, a))

    def posterior(self, x: Tensor, a: Tensor, y: Tensor | None = None, *beside: Tensor) -> Any:
        """q(z | a, y, x), event shape `(latent_dim,)`; leading axes broadcast, `beside` as in `auxiliary`."""
        prior = prior_given(self.model.prior, self.inputs.condition_of(beside)) if self.family.uses_prior else None
        coded = [one_hot(y, self.num_classes, x)] if y is not None else []
        return self.family(prior, self.encoder(x, *beside, a, *coded))

    def classifier(
        self, x: Tensor, num_draws: int | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Categorical:
        """q(y | x, c), batch `(N,)`: the mean of q(y | a, x) over draws of a, one in training mode, else 100."""
        if not self.num_classes:
            raise ValueError(f"Auxiliary: {type(self.model).__name__} has no classes (num_classes), so there is no y")
        x, *beside = self.inputs.seen_draws(self, x, mask, c).entering
        a = self.auxiliary(x, *beside).rsample((draws_of_classes(num_draws, self.training),))
        return mean_over_draws(self.classes(x, a, *beside))

    def predict(self, x: Tensor, num_draws: int = 100, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """q(y | x) as probabilities, `(N, num_classes)`, the mean over draws of a."""
        return predicted(self.classifier, x, num_draws, mask, c)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # by the model's names: those of `ADGM` are (x, y, mask, c), those of a VAE (x, mask, y)
        arguments = self.inputs.bound(args, kwargs)
        y = arguments.pop("y", None) if self.num_classes or self.inputs.condition != "y" else None
        x, *beside = self.inputs.see(self, x, (), arguments, "Write a guide of your own for it").entering
        check_labels(y, len(x), self.num_classes)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", self.auxiliary(x, *beside))
            if self.num_classes and y is None:
                y = pyro.sample("y", self.classes(x, a, *beside), infer={"enumerate": "parallel"})
            return pyro.sample(self.site, self.posterior(x, a, y, *beside))
