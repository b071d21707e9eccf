"""A model of data together with the mask that says which of them are missing: data missing not at random."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from zoo.parts.around import Seen, reopened
from zoo.parts.distributions.observed import given_observed
from zoo.parts.given.conditions import prior_given
from zoo.parts.store_keys import RootModule


class WithMask(RootModule):
    """p(x, m, z) = p(x, z) p(m | x): a model of x, and a model of the mask m, which may depend on the missing values.

    A model given x and a mask alone takes the mask for drawn regardless of what is missing (missing at random). Here
    the mask is data: log p(x_observed, m) = log int p(x_observed, x_missing) p(m | x_observed, x_missing) dx_missing,
    and values that tend to be missing are imputed as such. With IWELBO the bound is that of not-MIWAE. The data do not
    tell every p(m | x) from every other: sign, shape and which entries matter are assumptions, made by `missingness`.

    References: Ipsen, Mattei and Frellsen 2021.

    Args:
        model: a model whose program takes a mask and samples x with `zoo.parts.given.gaps.observe`: any static model of
            the zoo.
        missingness: module whose call gives p(m | x), event `(data_dim,)`, m 1 where observed:
            `zoo.parts.conditionals.SelfMasking(data_dim)`; by a network
            `zoo.parts.networks.WithHead((data_dim,), data_dim, Bernoulli)`; or your own.

    Sites: those of the model, `x_missing` (N, data_dim), whose entries count where x is missing, and `m`
    (N, data_dim), in the same plate. A guide draws x_missing from the model:
    `guides.PriorBelow(guide, sites=["x_missing"], model=model)`, with any guide of the inner model.

    Raises:
        TypeError: `missingness` is not callable.
        ValueError: at each call: no mask; the model samples no `x`, or one whose missing entries have no density.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE, WithMask
        >>> from zoo.infer import IWELBO
        >>> from zoo.parts.conditionals import Normal, SelfMasking
        >>> model = WithMask(VAE(5, 2, (16,), likelihood=Normal), SelfMasking(5))
        >>> guide = guides.PriorBelow(guides.Amortized(model.inner), sites=["x_missing"], model=model)
        >>> IWELBO(20)(model, guide)(torch.randn(3, 5), torch.rand(3, 5) < 0.7).shape
        torch.Size([])
    """

    def __init__(self, model: Any, missingness: nn.Module) -> None:
        super().__init__("model")
        if not callable(missingness):
            raise TypeError(f"missingness: expected a module `x -> p(m | x)`, such as SelfMasking, got {missingness!r}")
        self.inner, self.missingness = model, missingness
        # all that guides read of a model, as far as this one states it
        for name in ("data_dim", "latent_dim", "latent_dims", "num_classes", "condition_dim"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def prior(self, *condition: Tensor) -> Any:
        """p(z), that of the model, for families that look at it."""
        return prior_given(self.inner.prior, condition)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with Seen() as seen:
            self.inner.forward(x, *args, **kwargs)
        name = type(self.inner).__name__
        if "x" not in seen.values:
            raise ValueError(f"site 'x': {name} samples no such site, but {sorted(seen.values)}")
        p, mask = given_observed(seen.densities["x"], seen.values["x"])
        if mask is None:
            raise ValueError(f"mask: expected the mask of x, which is data of WithMask, and {name} was given none")
        with reopened(seen.frames(["x"])):
            x_missing = pyro.sample("x_missing", p)
            completed = torch.where(mask, seen.values["x"], x_missing)
            pyro.sample("m", self.missingness(completed), obs=mask.to(completed.dtype))
        return completed

    @torch.no_grad()
    def drawn_arguments(self, x_like: Tensor, **kwargs: Any) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
        """Latents, data and mask drawn from the model, for `zoo.infer.simulation_based_calibration`.

        Args:
            x_like: data of the shape to draw, their contents unseen.
            **kwargs: further arguments, such as a condition; a mask among them is not read.
        """
        everything = torch.ones_like(x_like, dtype=torch.bool)
        drawn = _sites(poutine.uncondition(self.forward), x_like, **kwargs | {"mask": everything})
        x, mask = drawn.pop("x"), drawn.pop("m").bool()
        # labels that were given are data too, and drawn ones take their place
        given = kwargs | {name: drawn.pop(name) for name in kwargs if name in drawn} | {"mask": mask}
        latents = {name: value for name, value in drawn.items() if name != "x_missing"}
        # the entries of x_missing that are observed count for nothing, and are drawn as a guide draws them
        again = _sites(poutine.condition(self.forward, data=latents), x, **given)["x_missing"]
        return latents | {"x_missing": torch.where(mask, again, x)}, x, given


def _sites(program: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    trace = prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {name: site["value"] for name, site in sites.items() if not site["infer"].get("_deterministic")}
