"""A hierarchy of latents under a class: the generative model of semi-supervised ladder and BIVA models."""

from collections.abc import Mapping
from typing import Any

import pyro
from torch import Tensor, nn

from zoo.parts.checks import check_labels, check_rows, parameter_of
from zoo.parts.conditionals.class_prior import class_prior_or_uniform
from zoo.parts.hierarchy import Hierarchy
from zoo.parts.labels import generate_classes, one_hot
from zoo.parts.once import once
from zoo.parts.store_keys import RootModule


class WithClass(RootModule):
    """p(x, y, z) = p(y) p(x, z | y): a hierarchy that takes a condition, and a class y that is its condition.

    As `M2`, with the levels of the hierarchy in place of its style: `forward(x, y)` is a program of p(x, y),
    `forward(x)` one of p(x); rows with and without labels in one batch are the matter of `zoo.infer.SemiSupervised`.

    References: Kingma, Rezende, Mohamed and Welling 2014 (M2); Maaloe, Fraccaro, Lievin and Winther 2019 (BIVA).

    Args:
        model: a hierarchy, `BIVA` or `Hierarchical` say, built with `condition_dim`, the number of classes C >= 2. It
            is part of this model and is trained with it.
        class_prior: module whose call gives p(y); None: `ClassPrior(C)`, all classes alike.

    Sites: `y` (N,) int64, and those of the hierarchy, all in `pyro.plate("data", N)`.

    Raises:
        TypeError: the model is no hierarchy.
        ValueError: fewer than two classes, or none; a prior over another number of classes. At each call: x is not
            `(N, data_dim)`; y is not int64 `(N,)`, or a class is out of range; a wrong mask.

    Example:
        >>> import torch, guides
        >>> from zoo import BIVA, WithClass
        >>> from zoo.infer import ELBO
        >>> model = WithClass(BIVA(784, (8, 4), ((200,), (100,)), condition_dim=10))
        >>> guide = guides.Labelled(model, levels=guides.Bidirectional(model.inner, hidden=((200,), (200,), (100,))))
        >>> ELBO()(model, guide)(torch.zeros(3, 784)).shape
        torch.Size([])
    """

    def __init__(self, model: Hierarchy, class_prior: nn.Module | None = None) -> None:
        super().__init__("model")
        if not isinstance(model, Hierarchy):
            raise TypeError(f"model: expected a hierarchy with condition_dim, such as BIVA, got {type(model).__name__}")
        if not model.condition_dim:
            raise ValueError(f"model: {type(model).__name__} takes no condition; build it with condition_dim, the "
                             "number of classes")  # fmt: skip
        self.num_classes = model.condition_dim
        self.class_prior = class_prior_or_uniform(class_prior, self.num_classes)
        self.inner, self.data_dim, self.latent_dims = model, model.data_dim, model.latent_dims

    @once
    def coded(self, y: Tensor, x: Tensor) -> Tensor:
        """Classes `(...)` as the condition of the hierarchy, `(..., num_classes)`."""
        return one_hot(y, self.num_classes, x)

    def forward(self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        check_rows(x, self.data_dim, parameter_of(self), mask)
        check_labels(y, len(x), self.num_classes)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            return self.inner.draw(x, mask, (self.coded(y, x),))

    def generate(
        self, y: Tensor | None = None, *, num: int | None = None, fixed: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New data of given classes: the latents with y, site -> draws, and x `(N, data_dim)`, drawn from p(x | z, y).

        Args:
            y: classes, int64 `(N,)`; None: drawn from p(y).
            num: N, where y is None.
            fixed: latents that are given: site -> `(N, size)`, or `(size,)` for all.

        Raises:
            TypeError, ValueError: neither or both of y and num; wrong classes; an unknown site or a value of another
                shape.
        """
        sizes = dict(zip(self.inner.sites, self.latent_dims, strict=True))
        return generate_classes(self, sizes, y, num, fixed)

    def check_guide(self, guide: Any) -> None:
        """Refuses a guide whose levels were built for a hierarchy of other sizes."""
        self.inner.check_guide(getattr(guide, "levels", None))
