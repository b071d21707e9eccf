"""Discrete sites that are summed out: their refusals, and the handler that answers one with all its values.

The mark is Pyro's own, `infer={"enumerate": "parallel"}` in the guide, so that the same guide serves `TraceEnum_ELBO`,
`Predictive` and a plain call, in which the site is drawn.
"""

import math
from typing import Any

from pyro.poutine.messenger import Messenger

from zoo.infer.sites.layout import Layout
from zoo.infer.sites.refusals import name_of

#: all values of all summed sites together: a run takes the memory of so many particles
MAX_VALUES = 4096
_MANY = "codes too many to sum have estimators of their own, zoo.infer.RLOO and zoo.infer.VIMCO, without the mark"


def summed_sites(drawn: dict[str, Any], stated: dict[str, Any], batch: Any) -> tuple[str, ...]:
    """The sites of a guide that are marked to be summed out, in its order.

    Args:
        drawn: the guide's sites.
        stated: the model's sites.
        batch: the batch plate.

    Raises:
        ValueError: a marked site that cannot be summed out for each datum by itself; names it and the reason.
    """
    marked = {name: site for name, site in drawn.items() if site["infer"].get("enumerate")}
    counts = {}
    for name, site in marked.items():
        fn, how = site["fn"], site["infer"]["enumerate"]
        if how != "parallel" or site["infer"].get("num_samples") is not None:
            samples = f" with num_samples={site['infer']['num_samples']}" if site["infer"].get("num_samples") else ""
            raise ValueError(
                f"site {name!r}: enumerate={how!r}{samples}: sites are summed out over all values at once, "
                'infer={"enumerate": "parallel"}'
            )
        if inner := [f.name for f in site["cond_indep_stack"] if f.vectorized and f != batch]:
            raise ValueError(
                f"site {name!r}: marked to be summed out inside the plate {inner[0]!r}, where its values multiply to "
                f"one set for each entry of the plate; only sites of the batch plate {batch.name!r} are summed out"
            )
        if not fn.has_enumerate_support:
            raise ValueError(
                f"site {name!r}: marked to be summed out, but {name_of(fn)} cannot list its values; draw the site, or "
                f"give it a distribution with `enumerate_support`; {_MANY}"
            )
        try:
            counts[name] = len(fn.enumerate_support(expand=False))
        except ValueError as error:
            # a distribution may refuse a list that would fill the memory
            raise ValueError(f"site {name!r}: marked to be summed out, but {error}") from error
        if name in stated:
            _check_number(name, fn, stated[name]["fn"])
    if math.prod(counts.values()) > MAX_VALUES:
        said = " times ".join(str(count) for count in counts.values())
        raise ValueError(
            f"site {[*counts][-1]!r}: marked to be summed out, which takes {said} values; {MAX_VALUES} are the most. "
            f"Draw it; {_MANY}"
        )
    return tuple(counts)


def _check_number(name: str, q: Any, p: Any) -> None:
    """Refuses a guide that lists other values than the model: the mass of those left out would silently be lost."""
    # a support without end, such as that of Poisson counts, can only be summed in part
    if not isinstance(q.support, type(p.support)) or not p.has_enumerate_support:
        return
    listed, all_values = (len(fn.enumerate_support(expand=False)) for fn in (q, p))
    if listed != all_values:
        raise ValueError(
            f"site {name!r}: summed out over the {listed} values of the guide's {name_of(q)}, but the model's "
            f"{name_of(p)} has {all_values}; logits of -inf rule single values out"
        )


class AllValues(Messenger):
    """A handler that answers each summed site with all its values, on an axis of their own left of the particles."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        #: number of values of each site that has been met
        self.counts: dict[str, int] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.layout.summed or msg["done"]:
            return
        fn = msg["fn"]
        values = fn.enumerate_support(expand=False)
        # the plates, then the particles, then the sites that were met before
        right = self.layout.nesting + 1 + self.layout.summed.index(msg["name"])
        self.counts[msg["name"]] = len(values)
        msg["value"], msg["done"] = values.reshape(len(values), *(1,) * right, *fn.event_shape), True

    @property
    def front(self) -> tuple[int, ...]:
        """The sizes of the axes of the sites that have been met, as they stand in a tensor's shape."""
        return tuple(reversed(self.counts.values()))
