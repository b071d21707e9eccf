"""The guide of M1+M2: one guide's latents are the data of another."""

from typing import Any

import pyro
from pyro.distributions import Categorical
from torch import Tensor

from guides.guide import Guide
from guides.labelled import Labelled
from zoo.parts.checks import check_labels, check_rows, check_shape, parameter_of
from zoo.parts.given.conditions import conditions
from zoo.parts.labels import draws_of_classes, mean_over_draws, predicted


class StackedLabelled(Guide):
    """q(z_1 | x) q(y | z_1) q(z_2 | z_1, y): the guides of M1 and of M2, the latter reading the draw of z_1 as data.

    One draw of z_1 serves all classes, which are summed out where no label is given.

    References: Kingma, Rezende, Mohamed and Welling 2014.

    Args:
        model: an `M1M2`.
        m1: a guide of `model.m1` with `posterior(x)`, such as `Amortized`.
        m2: a guide of `model.m2`, a `Labelled`.

    Sites, in `pyro.plate("data", N)`: `z_1` (N, m1.latent_dim); `y` (N,), where no label is given; `z_2`
    (N, m2.latent_dim).

    Raises:
        ValueError: m1 or m2 is a guide of another model; m2 has flags. At each call: x is not `(N, data_dim)`; y is not
            int64 `(N,)`, or a class is out of range.

    Example:
        >>> from functools import partial
        >>> import torch, guides
        >>> from zoo import M1M2, M2, VAE
        >>> from zoo.parts.conditionals import Normal
        >>> model = M1M2(VAE(784, 20), M2(20, 5, num_classes=10, likelihood=partial(Normal, heteroscedastic=True)))
        >>> guide = guides.StackedLabelled(model, guides.Amortized(model.m1), guides.Labelled(model.m2))
        >>> guide.predict(torch.zeros(3, 784)).shape
        torch.Size([3, 10])
    """

    def __init__(self, model: Any, m1: Any, m2: Labelled) -> None:
        super().__init__(model)
        for name, guide in (("m1", m1), ("m2", m2)):
            if getattr(guide, "model", None) is not getattr(model, name):
                raise ValueError(
                    f"{name}: expected a guide of model.{name}, got {type(guide).__name__}, a guide of another"
                )
        if m2.inputs.flags:
            raise ValueError("m2: expected a guide without flags: they say where data are missing, and z_1 never is")
        self.m1, self.m2 = m1, m2

    def posterior(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Any:
        """q(z_1 | x, c), event shape `(m1.latent_dim,)`."""
        named = {"mask": mask, "y": c if getattr(self.model.m1, "condition_dim", 0) else None}
        # a guide of m1 need not know of masks and conditions
        return self.m1.posterior(x, **{name: value for name, value in named.items() if value is not None})

    def classes(self, z_1: Tensor, *c: Tensor) -> Categorical:
        """q(y | z_1, c), c the condition of M2, as vectors, if it has one; leading axes broadcast."""
        return self.m2.classes(self.model.modelled(z_1), *c)

    def classifier(
        self, x: Tensor, num_draws: int | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Categorical:
        """q(y | x), batch shape `(N,)`: the mean of q(y | z_1) over draws of z_1, one in training mode, else 100.

        The paper classifies by the mean of z_1: `m2.predict(model.modelled(guide.posterior(x).mean))`.
        """
        num_draws = draws_of_classes(num_draws, self.training)
        return mean_over_draws(self.classes(self.posterior(x, mask, c).rsample((num_draws,)), *self._told(x, c)))

    def predict(self, x: Tensor, num_draws: int = 100, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """q(y | x) as probabilities, `(N, num_classes)`, the mean over draws of z_1."""
        check_shape(x, self.model.data_dim, parameter_of(self), mask)
        return predicted(self.classifier, x, num_draws, mask, c)

    def forward(
        self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        check_rows(x, self.model.data_dim, parameter_of(self), mask)
        check_labels(y, len(x), self.model.num_classes)
        told = self._told(x, c)
        with pyro.plate("data", len(x)):
            z_1 = pyro.sample("z_1", self.posterior(x, mask, c))
            if y is None:
                y = pyro.sample("y", self.classes(z_1, *told), infer={"enumerate": "parallel"})
            return pyro.sample("z_2", self.m2.posterior(self.model.modelled(z_1), y, *told))

    def _told(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
        """The condition of M2, as vectors; none where it was built without one."""
        condition = conditions(self.model, x, c, "c")
        return condition if getattr(self.model.m2, "condition_dim", 0) else ()
