"""A family over the reals, mapped onto the support of the prior."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import IndependentTransform

from guides.families.diagonal import Diagonal
from guides.families.family import Family
from guides.families.mapped import Mapped
from zoo.parts.checks import element
from zoo.parts.distributions.circle import Circle, HalfTangent, latent_support
from zoo.parts.given.conditions import blank, prior_given


class Onto(Family):
    """q(z) = q(u) / |det dz/du|, z = f(u) on a support, q(u) any family over the reals: exact densities on the support.

    The map f is torch's (`biject_to`): the exponential for positive z, the sigmoid for bounded z, stick breaking for a
    simplex, where u has one entry less than z. An angle is z = m + 2 arctan(u), a density on the whole circle but for
    the one point opposite to m, where a Gaussian of u has density 0; m comes from the context. (A wrapped Normal is a
    sum without end, which a program has to cut off.) `Amortized`, `PerDatum`, `Labelled` and `Auxiliary` take `Onto` by
    themselves where `model.prior()` has such a support.

    Args:
        features, context: as in `Family`.
        family: constructor of the family of u, `(features, context) -> Family`, of one that does not read the prior.
        support: a constraint of vectors of `features` entries; None: that of the prior at each call.
        like: a support with the shape of the prior's, where `support` is None.

    Raises:
        ValueError: a support onto which torch knows no map from the reals; a family that reads the prior, whose place
            is on the support and not among the reals.

    Example:
        >>> import guides, torch
        >>> from pyro.distributions import constraints
        >>> family = guides.Onto(3, 5, family=guides.IAF, support=constraints.simplex)
        >>> family(None, torch.zeros(4, 5)).sample().sum(-1)
        tensor([1., 1., 1., 1.])
    """

    def __init__(
        self,
        features: int,
        context: int,
        *,
        family: Callable[[int, int], Family] = Diagonal,
        support: Any = None,
        like: Any = None,
    ) -> None:
        shape = _map_onto(support if like is None else like).inverse_shape(torch.Size([features]))
        # without a head: the parameters of u are among those of this family
        inner = Family.built(family, shape[-1], 0)
        if inner.uses_prior:
            raise ValueError(
                f"Onto: {type(inner).__name__} reads the prior, which stands on {support or like}, for a density over "
                "the reals; take a family that does not"
            )
        turning = isinstance(element(support if like is None else like), Circle)
        turns = 2 * features if turning else 0
        super().__init__(features, context, inner.num_parameters + turns, locations=inner.locations)
        self.inner, self.support, self.turns = inner, support, turns
        # instance attributes, since they are those of the family of u, and of the prior that is asked for its support
        self.uses_prior = support is None
        self.scores_foreign_values = inner.scores_foreign_values

    def density(self, parameters: Tensor, prior: Any) -> Mapped:
        own, turn = parameters.split([self.inner.num_parameters, self.turns], -1)
        base = self.inner.density(own, None)
        support = latent_support(prior) if self.support is None else self.support
        if not self.turns:
            return Mapped(base, _map_onto(support), self.features, support)
        # An angle of two numbers: a linear head that turns them once around moves m without a jump.
        sine, cosine = turn.chunk(2, -1)
        return Mapped(base, IndependentTransform(HalfTangent(torch.atan2(sine, 1 + cosine)), 1), self.features, support)


def fitting(family: Callable[[int, int], Family], model: Any, site: str, features: int, context: int) -> Family:
    """A family of these sizes, mapped onto the support of `model.prior()`, that of `z`, where that is not all of R^d.

    Raises:
        TypeError: as `Family.built`.
    """
    return Family.built(_onto_support(family, model, site), features, context)


def _onto_support(family: Callable[[int, int], Family], model: Any, site: str) -> Callable[[int, int], Family]:
    if site != "z" or not callable(getattr(model, "prior", None)) or getattr(family, "func", family) is Onto:
        return family
    with torch.no_grad():
        support = latent_support(prior_given(model.prior, blank(model)))
    real = isinstance(element(support), type(constraints.real))
    # codes, one-hot or relaxed, have families of their own, each a density on their support already
    if real or support.is_discrete or not getattr(getattr(family, "func", family), "over_reals", True):
        return family
    return partial(Onto, family=family, like=support)


def _map_onto(support: Any) -> Any:
    """Torch's map from the reals onto a support, as a map of vectors.

    Raises:
        ValueError: torch knows none; names the support.
    """
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ValueError(f"Onto: no map from the reals onto {support} is known to torch.distributions.biject_to") from (
            error
        )
    missing = 1 - transform.domain.event_dim
    # a constraint of single entries, as `constraints.positive`, holds for each entry of a vector
    return IndependentTransform(transform, missing) if missing > 0 else transform
