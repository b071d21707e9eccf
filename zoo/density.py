"""Models without latents, whose likelihood is exact: flows and autoregressive networks."""

from typing import Any

import pyro
import torch
from pyro.distributions import constraints, is_validation_enabled
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_module, check_shape, element, holds, listed, parameter_of
from zoo.parts.given.conditions import Condition, check_given, condition_size, conditions, rows_for, takes_one
from zoo.parts.given.gaps import observe, refuse_unmasked
from zoo.parts.store_keys import RootModule


class Density(RootModule):
    """p(x), with a condition p(x | y): no latent, and an exact likelihood. Its guide is `guides.Empty`.

    Every bound of the pair is log p(x), whatever the objective and its number of particles. Levels are scored by a
    discrete conditional; a density of real numbers wants data that were dequantised (`zoo.data.Dequantised`), since
    it can be made as large as one likes at whole numbers, and says nothing there.

    References: coupling flows: Dinh et al. 2017; masked autoregressive flows: Papamakarios et al. 2017; MADE: Germain
    et al. 2015; PixelCNN: van den Oord et al. 2016.

    Args:
        data_dim: size D of a data point.
        conditional: module whose call gives p(x), event shape `(data_dim,)`: of `zoo.parts.conditionals` `FlowPrior`,
            `SplinePrior`, `MAFPrior`, any of them in a `Logit`, `MADE(0, data_dim)`, `PixelCNN(0, data_dim, shape=)`,
            or your own. With a condition it is called with y, `(N, condition_dim)`: `PixelCNN(condition_dim, ...)`.
        condition_dim: as of `VAE`.

    `forward(x, mask, y)`: as of `VAE`. A mask needs a conditional whose entries are independent; flows and
    autoregressive networks refuse it.

    Sites: `x` (N, data_dim), in `pyro.plate("data", N)`.

    Raises:
        TypeError: `conditional` is no module.
        ValueError: `conditional` is a model, has a latent, or gives a density of another size, or takes no condition
            where there is `condition_dim`. At each call, as of `VAE`; by a density of real numbers also whole numbers
            (a constant x passes, so that zeros may stand for the number of rows), not looked for under
            `pyro.enable_validation(False)`.

    Example:
        >>> import torch, guides
        >>> from zoo import Density
        >>> from zoo.infer import ELBO
        >>> from zoo.parts.conditionals import FlowPrior
        >>> model, x = Density(4, FlowPrior(4)), torch.randn(3, 4)
        >>> bool(torch.isclose(ELBO()(model, guides.Empty(model))(x), -model.log_prob(x).sum()))
        True
    """

    def __init__(self, data_dim: int, conditional: nn.Module, *, condition_dim: int | None = None) -> None:
        super().__init__("model")
        check_counts(data_dim=data_dim)
        check_module("conditional", conditional, "FlowPrior(data_dim)")
        self.data_dim, self.condition_dim = data_dim, condition_size(condition_dim)
        self.conditional = conditional
        self._refuse_other()

    def likelihood(self, *y: Tensor):
        """p(x), with a condition p(x | y), y as vectors: event `(data_dim,)`."""
        return self.conditional(*y)

    def forward(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        like = parameter_of(self)
        condition = check_given(self, x, mask, y, like)
        p = self.likelihood(*condition)
        self._refuse_whole(p, x)
        with pyro.plate("data", len(x)):
            return observe("x", p, x, mask)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), exact, in nats, `(...)` of x `(..., data_dim)`; with a condition x is `(N, data_dim)`.

        Raises:
            ValueError: as `forward`; values outside the support of p(x), with their rows.
        """
        check_shape(x, self.data_dim, parameter_of(self))
        condition: Condition = conditions(self, x, y)
        p = self.likelihood(*condition)
        self._refuse_whole(p, x)
        if is_validation_enabled() and not holds(p.support, x):
            refuse_unmasked(self, (x,), {})
            outside = ~element(p.support).check(x)
            rows = (outside if outside.ndim < x.ndim else outside.any(-1)).flatten().nonzero().flatten().tolist()
            raise ValueError(f"x: values outside {p.support}, the support of {self._name}, in rows {listed(rows)}")
        return p.log_prob(x)

    @torch.no_grad()
    def generate(self, num: int, y: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """New data: no latents, and x `(num, data_dim)`. Arguments and errors as of `VAE.generate`."""
        check_counts(num=num)
        condition = rows_for(self, num, y, parameter_of(self))
        return {}, self.likelihood(*condition).expand((num,)).sample()

    @property
    def _name(self) -> str:
        return type(self.conditional).__name__

    def _refuse_other(self) -> None:
        """Refuses a conditional that is none."""
        advice = "a Density has no latents; models with latents are pairs with guides of their own"
        if isinstance(self.conditional, RootModule):
            raise ValueError(f"conditional: {self._name} is a model; {advice}")
        if self.condition_dim and not takes_one(self.conditional):
            raise ValueError(f"condition_dim: {self._name} takes no condition, so y would change nothing")
        like = parameter_of(self)
        blank = torch.zeros(1, self.condition_dim, dtype=None if like is None else like.dtype)
        with torch.no_grad(), pyro.poutine.trace() as traced, pyro.poutine.block(hide_types=["param"]):
            p = self.likelihood(*([blank] if self.condition_dim else []))
        latent = [name for name, site in traced.trace.nodes.items() if site["type"] == "sample"]
        if latent:
            raise ValueError(f"conditional: {self._name} samples site {latent[0]!r}; {advice}")
        shape = getattr(p, "event_shape", None)
        if shape != (self.data_dim,):
            got = type(p).__name__ if shape is None else f"event shape {tuple(shape)}"
            raise ValueError(f"conditional: expected a distribution of event shape ({int(self.data_dim)},) from "
                             f"{self._name}, got {got}")  # fmt: skip

    def _refuse_whole(self, p: Any, x: Tensor) -> None:
        """Refuses levels under a density of real numbers."""
        if not is_validation_enabled() or not isinstance(element(p.support), type(constraints.real)):
            return
        # rows of equal numbers stand for a number of rows, as in `poutine.uncondition(model)(zeros)`
        if bool((x == x.round()).all()) and bool((x != x.flatten()[0]).any()):
            raise ValueError(
                f"x: whole numbers alone, and {self._name} is a density of real numbers, which says nothing about "
                "levels; dequantise them (zoo.data.Dequantised), or take a discrete conditional (PixelCNN, MADE)"
            )
