"""A model with an auxiliary variable beside its own sites, for guides that are mixtures over that variable."""

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from zoo.parts.around import Seen, reopened
from zoo.parts.given.conditions import prior_given
from zoo.parts.store_keys import RootModule


class WithAuxiliary(RootModule):
    """p(x, z) r(a | x, z): a model and a reverse model r of an auxiliary a. r is normalised, so p(x) is the model's.

    A guide q(a | x) q(z | a, x) makes q(z | x) = int q(a | x) q(z | a, x) da, a mixture of infinitely many densities of
    its family; the density of the mixture is not known. With r there is a bound on log p(x) all the same. This bound is
    below the ELBO of the mixture by the mean of KL(q(a | z, x) || r(a | x, z)): r learns to infer a from x and z.
    Importance-weighted bounds and `log_likelihood` converge to log p(x) for every r.

    References: Agakov and Barber 2004; Ranganath, Tran and Blei 2016 (hierarchical variational models); Maaloe,
    Sonderby, Sonderby and Winther 2016.

    Args:
        model: any Pyro model whose sites stand in one batch plate. It is part of this one and is trained with it;
            generation, references and plots take `inner`, the model itself.
        reverse: module whose call gives r(a | x, z), its attribute `size` being the length of a:
            `zoo.parts.networks.WithHead((data_dim, latent_dim), size, Normal)`, or your own.
        sites: names of the model's sites that r reads, in the order in which it takes them.

    Sites: those of the model, and `a` (N, reverse.size), in the same plate.

    Raises:
        TypeError: `reverse` is not callable, or has no whole number `size`.
        ValueError: at each call: the model has no site of a name in `sites`, or these share no plate of the model.

    Example:
        >>> import guides, torch
        >>> from zoo import VAE, WithAuxiliary
        >>> from zoo.infer import ELBO
        >>> from zoo.parts.conditionals import Normal
        >>> from zoo.parts.networks import WithHead
        >>> model = WithAuxiliary(VAE(784, 20), WithHead((784, 20), 5, Normal))
        >>> ELBO()(model, guides.Auxiliary(model))(torch.zeros(3, 784)).shape
        torch.Size([])
    """

    def __init__(self, model: Any, reverse: Any, *, sites: Sequence[str] = ("x", "z")) -> None:
        super().__init__("model")
        if not callable(reverse) or not isinstance(getattr(reverse, "size", None), int):
            raise TypeError(f"reverse: expected a module `(x, z) -> r(a | x, z)` with `size`, the length of a, got "
                            f"{reverse!r}")  # fmt: skip
        self.inner, self.reverse, self.sites = model, reverse, tuple(sites)
        self.auxiliary_dim = reverse.size
        # all that guides read of a model, as far as this one states it
        for name in ("data_dim", "latent_dim", "num_classes", "condition_dim"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def prior(self, *condition: Tensor):
        """p(z), that of the model, for families that look at it."""
        return prior_given(self.inner.prior, condition)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with Seen() as seen:
            result = (self.inner.forward if isinstance(self.inner, nn.Module) else self.inner)(x, *args, **kwargs)
        if missing := [name for name in self.sites if name not in seen.values]:
            raise ValueError(f"sites: {type(self.inner).__name__} samples no site {missing[0]!r}, but "
                             f"{sorted(seen.values)}: WithAuxiliary(model, reverse, sites=...)")  # fmt: skip
        frames = seen.frames(self.sites)
        if not frames:
            raise ValueError(f"sites: {type(self.inner).__name__} samples {self.sites} in no common plate of its own")
        with reopened(frames):
            pyro.sample("a", self.reverse(*(seen.values[name] for name in self.sites)))
        return result
