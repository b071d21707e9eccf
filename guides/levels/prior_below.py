"""A guide's upper levels alone, the lower ones being drawn from the model: the bound L^{>k}."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from guides.guide import Guide
from zoo.parts.given.row_numbers import keywords_of, takes_index
from zoo.parts.one_program import UNCONSTRAINED, Hiding


class PriorBelow(Guide):
    """q(z_{>k} | x) p(z_{<=k} | z_{>k}): a guide's view of the upper levels, and the model's own of the levels below.

    With it the ELBO is L^{>k} <= log p(x), L^{>0} that of the guide: x has to be explained by its upper levels alone.
    Data unlike those of the training may be copied by the lowest level, and be told apart by L^{>k} (BIVA) or by
    L - L^{>k} (Havtorn et al.); `zoo.infer.log_likelihood` gives both datum by datum. The guide draws its lower levels
    all the same, as upper ones may depend on them (`BottomUp`, `Bidirectional`). Those draws are hidden, and the sites
    are drawn anew from the model's conditionals (marked `from_model`): log p - log q is exactly 0 there.

    References: Maaloe, Fraccaro, Lievin and Winther 2019, section 3; Havtorn et al. 2021.

    Args:
        guide: a guide of a model with several latent sites.
        k: number of lower levels z_1..z_k that the model draws (in `BIVA` both latents of each), of hierarchies.
        sites: the names of the sites that the model draws, of any pair; in place of k. The guide need not sample them.
        model: the model; None: that of the guide.

    Sites: those of the guide.

    Raises:
        ValueError: no model; neither or both of k and `sites`; k out of range. At each call: a site the model lacks, or
            one that an autoguide draws together with others.

    Example:
        >>> import torch, guides
        >>> from zoo import Hierarchical
        >>> from zoo.infer import log_likelihood
        >>> model = Hierarchical(784, (8, 4), hidden=((200,), (100,)))
        >>> upper = guides.PriorBelow(guides.TopDown(model, hidden=((200,), (100,))), 1)
        >>> log_likelihood(model, upper, torch.zeros(3, 784), num_particles=10).elbo.shape
        torch.Size([3])
    """

    def __init__(
        self, guide: Any, k: int | None = None, *, sites: Sequence[str] | None = None, model: Any = None
    ) -> None:
        model = getattr(guide, "model", None) if model is None else model
        if model is None:
            raise ValueError(f"PriorBelow: {getattr(guide, '__name__', type(guide).__name__)} knows no model: model=")
        super().__init__(model)
        if (k is None) == (sites is None):
            raise ValueError(f"PriorBelow: expected k or sites, one of the two, got k = {k} and sites = {sites}")
        self.guide, self.below = guide, frozenset(_lowest(guide, model, k) if sites is None else sites)

    @property
    def indexed(self) -> bool:
        """True if the guide has parameters for each row of the data, and asks for `index`."""
        return takes_index(self.guide)

    @property
    def per_datum(self) -> Callable[..., "PriorBelow"]:
        """Makes, of the arguments of a call, a guide whose upper levels are those of `guide.per_datum`."""
        upper = self.guide.per_datum
        return lambda *args, **kwargs: PriorBelow(upper(*args, **kwargs), sites=[*self.below], model=self.model)

    @property
    def classifier(self) -> Callable:
        """q(y | x) of the guide, for `SemiSupervised`."""
        return self.guide.classifier

    def _hides(self, name: str) -> bool:
        return name.removesuffix(UNCONSTRAINED) in self.below

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples the sites; returns site -> draw."""
        with Hiding(self._hides) as inferred:
            _program(self.guide)(x, *args, **keywords_of(self.guide, kwargs))
        if inferred.joint and inferred.points:
            raise ValueError(
                f"PriorBelow: site {inferred.points[0]!r}: the guide draws it together with other latents, so that it "
                "cannot be hidden alone; AutoNormal draws each by itself"
            )
        upper = {name: value for name, value in inferred.values.items() if not self._hides(name)}
        with Hiding(lambda name: name not in self.below, upper) as generated:
            _program(self.model)(x, *args, **keywords_of(self.model, kwargs))
        if missing := self.below - generated.values.keys():
            raise ValueError(f"PriorBelow: the model samples no site {sorted(missing)}, but {sorted(generated.values)}")
        return upper | {name: generated.values[name] for name in self.below}


def _lowest(guide: Any, model: Any, k: Any) -> Collection[str]:
    """The sites of the k lowest layers."""
    layers = getattr(model, "layers", None) or [(site,) for site in getattr(guide, "sites", ())]
    if isinstance(k, bool) or k not in range(len(layers)):
        least = "sites=, as the guide states no levels" if not layers else f"a number of levels, 0 to {len(layers) - 1}"
        raise ValueError(f"k: expected {least}, got {k!r}")
    return [site for layer in layers[:k] for site in layer]


def _program(fn: Any) -> Callable:
    # without the parameter store, as part of this guide's own call
    return fn.forward if isinstance(fn, nn.Module) else fn
