"""A class and a latent vector for each data point, inferred by a classifier and an encoder."""

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
from guides.levels.has_levels import check_inner
from guides.levels.hierarchy_guide import HierarchyGuide
from zoo.parts.checks import check_labels, check_module, check_offers
from zoo.parts.given.conditions import prior_given
from zoo.parts.labels import checked_logits, one_hot, over_classes, probabilities
from zoo.parts.networks import WithHead
from zoo.parts.networks.stages import StageArgument, build_stage


class HasClasses(HasLatentVector, Protocol):
    """A model that `Labelled` can serve; with a family that reads the prior, the guide also calls `model.prior()`."""

    num_classes: int


class Labelled(Guide):
    """q(y | x) q(z | x, y): a classifier, and an encoder of data point and class, or a guide of levels z_1..z_L.

    Without a label y is marked to be summed out: objectives weight the bound of each class by q(y | x). With one, only
    the encoder takes part in the bound; labels train the classifier by `zoo.infer.SemiSupervised`.

    References: Kingma, Rezende, Mohamed and Welling 2014.

    Args:
        model: any model with `data_dim`, `latent_dim` and `num_classes` (protocol `HasClasses`), such as `M2`; or
            `WithClass`, a hierarchy under a class.
        family: constructor of q(z | x, y); None: `Diagonal`.
        hidden: widths of the hidden layers of classifier and encoder, or the constructor of a stage.
        levels: of `WithClass`, the guide of its hierarchy `model.inner`, in place of encoder and family.
        classifier: a network of your own from x to a logit for each class, `(..., num_classes)`.
        activation: constructor of the nonlinearity of networks given by widths.
        flags: gives both networks a further input, 1 where an entry of x is missing and 0 elsewhere. Without it they
            read 0 there. A classifier of your own is called with the same inputs: x, flags, condition.

    Sites, in `pyro.plate("data", N)`: `y` (N,), where no label is given; `z` (N, latent_dim), or those of `levels`.

    Raises:
        TypeError, ValueError: as `zoo.parts.networks.WithHead`; the model has no `num_classes`; `levels` is of another
            model, lacking, or beside a family. At each call: x or y as `M2` refuses them; another number of logits.

    Example:
        >>> import torch, guides
        >>> from zoo import M2
        >>> guides.Labelled(M2(784, 20, num_classes=10)).predict(torch.zeros(3, 784)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        model: HasClasses,
        *,
        family: Callable[[int, int], Family] | None = None,
        hidden: StageArgument = (400,),
        levels: HierarchyGuide | None = None,
        classifier: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        flags: bool = False,
    ) -> None:
        super().__init__(model)
        advice = "it serves models with classes, M2 or, by levels=guides.TopDown(model.inner) say, WithClass"
        check_offers("Labelled", model, "num_classes", "data_dim", *["latent_dim"] * (levels is None), advice=advice)
        self.inputs, classes = Inputs(model, flags), model.num_classes
        sizes = self.inputs.sizes(model)
        self.logits = WithHead(sizes, classes, nn.Linear, hidden, activation) if classifier is None else classifier
        check_module("classifier", self.logits, "zoo.parts.networks.mlp(...)")
        self.levels = levels
        if levels is None:
            self.encoder = build_stage(hidden, (*sizes, classes), activation, "hidden")
            self.family = fitting(family or Diagonal, model, "z", model.latent_dim, self.encoder.size)
        else:
            check_inner(levels, model, family)

    def classifier(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Categorical:
        """q(y | x, c), batch shape `(N,)`."""
        return self.classes(*self.inputs.seen_draws(self, x, mask, c).entering)

    def classes(self, x: Tensor, *beside: Tensor) -> Categorical:
        """q(y | x), leading axes broadcast; `beside` as in `posterior`."""
        return over_classes(checked_logits(self.logits(x, *beside), self.model.num_classes, x, *beside))

    def predict(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """q(y | x, c) as probabilities, `(N, num_classes)`."""
        return probabilities(self.classifier, x, mask, c)

    def posterior(self, x: Tensor, y: Tensor, *beside: Tensor) -> Any:
        """q(z | x, y), event shape `(latent_dim,)`; the axes of y, and those of x but the last, broadcast.

        `beside` are the encoder's other inputs: flags of missing entries and the condition, where there are these.
        Of a guide with `levels` they say q(z_1..z_L | x, y): a TypeError.
        """
        if self.levels is not None:
            raise TypeError("posterior: q(z_1..z_L | x, y) is that of `levels`, a guide of several sites; draw from it")
        prior = prior_given(self.model.prior, self.inputs.condition_of(beside)) if self.family.uses_prior else None
        return self.family(prior, self.encoder(x, *beside, one_hot(y, self.model.num_classes, x)))

    def forward(
        self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        seen = self.inputs.seen(self, x, mask, c)
        check_labels(y, len(x), self.model.num_classes)
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classes(*seen.entering), infer={"enumerate": "parallel"})
            if self.levels is None:
                return pyro.sample("z", self.posterior(seen.x, y, *seen.entering[1:]))
            return self.levels.draw(self.levels.inputs.read(x, mask, (self.model.coded(y, x),)), {})
