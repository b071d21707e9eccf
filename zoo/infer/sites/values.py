"""The check of a site's values against the support of its distribution: microseconds for a batch, in every run.

Structure may be remembered, values may not: no batch says anything about the next. So every run of a pair calls
`doubtful`; the rows that are wrong, and the error, are worked out in `zoo.infer.sites.refusals`.
"""

from collections.abc import Iterable
from typing import Any

from pyro.distributions import TransformedDistribution, constraints

from zoo.infer.sites.image import Image
from zoo.parts.checks import element, holds

_REAL = type(constraints.real)


def bare(fn: Any) -> Any:
    """The distribution inside wrappers that only reshape or mask it."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
    return fn


def support_of(fn: Any) -> Any:
    """The support of a distribution; for a transformed one whose base is bounded, the image of the base's support."""
    inner = bare(fn)
    # Torch takes the codomain of the last transform. A shift moves the bounds of its base, yet its codomain is real.
    bounded = isinstance(inner, TransformedDistribution) and not isinstance(element(inner.base_dist.support), _REAL)
    if not bounded or not isinstance(element(fn.support), _REAL):
        return fn.support
    image: Any = Image(inner, support_of(inner.base_dist))
    return constraints.independent(image, fn.event_dim - inner.event_dim) if fn.event_dim > inner.event_dim else image


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
