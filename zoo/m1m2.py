"""The stacked generative model of semi-supervised learning, M1+M2."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from zoo.parts.checks import check_labels, parameter_of
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.given.conditions import check_given, prior_given
from zoo.parts.given.gaps import observe
from zoo.parts.labels import generate_classes
from zoo.parts.store_keys import RootModule


class M1M2(RootModule):
    """p(x, y, z_2, z_1) = p(y) p(z_2) p(z_1 | y, z_2) p(x | z_1): `M2` over the latents z_1 of another model, M1.

    The parts are trained in the paper's stages. First M1, a `VAE`, with its guide. Then M2, over draws of z_1 from that
    guide's posterior, made anew for each batch, with `likelihood=partial(Normal, heteroscedastic=True)`. The pair of
    both gives log p(x), log p(x, y) and images by class, and may be trained on.

    References: Kingma, Rezende, Mohamed and Welling 2014.

    Args:
        m1: the model of x given z_1: `data_dim`, `latent_dim`, `likelihood(z)`. M2 takes the place of its prior.
        m2: an `M2` of z_1, or of its entries `kept`.
        kept: places of the entries of z_1 that M2 models, such as those whose posterior mean varies from datum to
            datum. The others are N(0, 1), independent of all. None: all.

    `forward(x, y, mask, c)`: as of `M2`. The condition c goes to those of m1 and m2 that have a `condition_dim`.

    Sites: `y` (N,) int64, `z_2` (N, m2.latent_dim), `z_1` (N, m1.latent_dim), `x` (N, data_dim), all in
    `pyro.plate("data", N)`.

    Raises:
        ValueError: a place out of range or twice; m2.data_dim is not the number of entries that M2 models;
            m1 and m2 have conditions of different sizes. At each
            call: x is not `(N, data_dim)`; y is not int64 `(N,)`, or a class is out of range; with `kept`, M2's
            likelihood is no `Normal`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from zoo import M1M2, M2, VAE
        >>> from zoo.parts.conditionals import Normal
        >>> model = M1M2(VAE(784, 20), M2(20, 5, num_classes=10, likelihood=partial(Normal, heteroscedastic=True)))
        >>> model.generate(torch.tensor([3, 3, 8]))[1].shape
        torch.Size([3, 784])
    """

    def __init__(self, m1: Any, m2: Any, *, kept: Sequence[int] | None = None) -> None:
        super().__init__("model")
        places = range(m1.latent_dim) if kept is None else sorted(kept)
        if len({*places}) != len(places) or not {*places} <= {*range(m1.latent_dim)}:
            raise ValueError(f"kept: expected different places in 0 to {m1.latent_dim - 1}, got {kept}")
        if m2.data_dim != len(places):
            raise ValueError(f"m2: expected data_dim = {len(places)}, the entries of z_1 that it models, got "
                             f"{m2.data_dim}")  # fmt: skip
        self.m1, self.m2 = m1, m2
        self.data_dim, self.num_classes = m1.data_dim, m2.num_classes
        sizes = {part.condition_dim for part in (m1, m2) if getattr(part, "condition_dim", 0)}
        if len(sizes) > 1:
            raise ValueError(f"m2: expected the condition_dim of m1, {m1.condition_dim}, or none, got "
                             f"{m2.condition_dim}")  # fmt: skip
        self.condition_dim = sizes.pop() if sizes else 0
        # a buffer, which `.to()` moves
        self.register_buffer("kept", None if kept is None else torch.tensor(places), persistent=False)

    def class_prior(self):
        """p(y), batch shape `()`."""
        return self.m2.class_prior()

    def prior(self, *c: Tensor):
        """p(z_2), with a condition of M2 p(z_2 | c); event shape `(m2.latent_dim,)`."""
        return prior_given(self.m2.prior, self._told(self.m2, *c))

    def _told(self, part: Any, *c: Tensor) -> tuple[Tensor, ...]:
        """The condition of M1 or of M2: c, or nothing where this part was built without one."""
        return c if getattr(part, "condition_dim", 0) else ()

    def conditional(self, y: Tensor, z_2: Tensor, *c: Tensor):
        """p(z_1 | y, z_2), event shape `(m1.latent_dim,)`; leading axes broadcast."""
        modelled = self.m2.likelihood(y, z_2, *self._told(self.m2, *c))
        if self.kept is None:
            return modelled
        if not isinstance(modelled, DiagonalNormal):
            raise ValueError(f"kept: takes an M2 with likelihood=Normal, got {type(modelled).__name__}")
        # zeros are the mean and the log scale of N(0, 1)
        loc, log_scale = (
            part.new_zeros(*part.shape[:-1], self.m1.latent_dim).index_copy(-1, self.kept, part)
            for part in (modelled.loc, modelled.log_scale)
        )
        return DiagonalNormal(loc, log_scale=log_scale)

    def likelihood(self, z_1: Tensor, *c: Tensor):
        """p(x | z_1), event shape `(data_dim,)`."""
        return self.m1.likelihood(z_1, *self._told(self.m1, *c))

    def modelled(self, z_1: Tensor) -> Tensor:
        """The entries of z_1 that M2 models, `(..., m2.data_dim)`."""
        return z_1 if self.kept is None else z_1[..., self.kept]

    def forward(
        self, x: Tensor, y: Tensor | None = None, mask: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        condition = check_given(self, x, mask, c, parameter_of(self), "c")
        check_labels(y, len(x), self.num_classes)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            z_2 = pyro.sample("z_2", self.prior(*condition))
            z_1 = pyro.sample("z_1", self.conditional(y, z_2, *condition))
            return observe("x", self.likelihood(z_1, *condition), x, mask)

    def generate(
        self,
        y: Tensor | None = None,
        *,
        num: int | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        c: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New data of given classes: the latents, site -> draws, and x `(N, data_dim)`. Arguments: `M2.generate`."""
        return generate_classes(self, {"z_2": self.m2.latent_dim, "z_1": self.m1.latent_dim}, y, num, fixed, c)
