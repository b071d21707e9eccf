"""The check of a site's values against the support of its distribution: microseconds for a batch, in every run.

Structure may be remembered, values may not: no batch says anything about the next. So every run of a pair calls
`doubtful`; the rows that are wrong, and the error, are worked out in `zoo.infer.sites.refusals`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import TransformedDistribution, constraints
from torch import Tensor

from zoo.infer.sites.image import Image

_BOOLEAN, _REAL, _LEVELS = type(constraints.boolean), type(constraints.real), constraints.integer_interval


def bare(fn: Any) -> Any:
    """The distribution inside wrappers that only reshape or mask it."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
    return fn


def element(support: Any) -> Any:
    """The constraint of one entry, where all entries have the same constraint, each by itself."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def support_of(fn: Any) -> Any:
    """The support of a distribution; for a transformed one whose base is bounded, the image of the base's support."""
    inner = bare(fn)
    # Torch takes the codomain of the last transform. A shift moves the bounds of its base, yet its codomain is real.
    bounded = isinstance(inner, TransformedDistribution) and not isinstance(element(inner.base_dist.support), _REAL)
    if not bounded or not isinstance(element(fn.support), _REAL):
        return fn.support
    image: Any = Image(inner, support_of(inner.base_dist))
    return constraints.independent(image, fn.event_dim - inner.event_dim) if fn.event_dim > inner.event_dim else image


def holds(support: Any, value: Tensor) -> bool:
    """Tells whether every entry of a value lies in a support; False for NaN."""
    # `support.check` makes a tensor of booleans and takes 2.7 % of a training step of a 784-400-20 VAE for Bernoulli;
    # sums over the values take 0.4 %, so the common supports have one.
    one = element(support)
    if not value.is_floating_point():
        return (value.dtype == torch.bool and isinstance(one, _BOOLEAN)) or bool(support.check(value).all())
    if isinstance(one, _BOOLEAN):
        # x - x^2 is 0 for 0 and 1 alone; the absolute values keep entries from cancelling
        return torch.addcmul(value, value, value, value=-1).abs_().sum().item() == 0.0
    if isinstance(one, _REAL):
        # a NaN makes the sum NaN, but so do +inf with -inf, which pass: only then are the entries looked at
        total = value.sum().item()
        return total == total or not bool(value.isnan().any())
    if isinstance(one, _LEVELS) and not isinstance(one.upper_bound, Tensor):
        low, high = value.aminmax()
        within = one.lower_bound <= low.item() and high.item() <= one.upper_bound
        return within and (value - value.round()).abs_().sum().item() == 0.0
    return bool(support.check(value).all())


def doubtful(stated: dict[str, Any], looked: Iterable[str]) -> list[str]:
    """The model's sites with a value outside its support, or with another event shape than that of the distribution.

    Args:
        stated: the model's sites as one run recorded them. Observed ones are looked at, but for those masked out whole.
        looked: the latents that are looked at too.
    """
    found = []
    for name, site in stated.items():
        fn, value = site["fn"], site["value"]
        asked = (site["is_observed"] or name in looked) and site["mask"] is not False
        event = fn.event_shape
        # the event is compared first: `check` of a value of another event would fail with torch's own words
        if value.shape[value.dim() - len(event) :] != event or (asked and not holds(support_of(fn), value)):
            found.append(name)
    return found
