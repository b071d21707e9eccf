"""Terms with the closed-form KL of each latent site, and the guides for which it is wrong.

E_q[log q(z) - log p(z)] is a KL only if the parents of z are the same in both densities: at given parents. A bottom-up
guide draws z before a parent that z has in the model, so that parent depends on z, and a KL at its value is no bound.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from torch.distributions import kl_divergence

from zoo.infer.call import Call, Purpose, Sites
from zoo.infer.per_datum import Terms
from zoo.infer.sites.layout import Layout
from zoo.infer.sites.programs import Programs, alone


def closed_form(
    model: Any, guide: Any, args: tuple, kwargs: dict[str, Any], num_particles: int, purpose: Purpose
) -> Terms:
    """The terms of a pair with minus the closed-form KL in place of log p - log q; arguments as `zoo.infer.call.run`.

    A summed site keeps log p - log q of each of its values, whose mean is its KL.

    Raises:
        ValueError: a latent has no closed-form KL, or its closed-form KL would be wrong; names the site.
    """
    with alone():
        call = Call(model, guide, args, kwargs, num_particles, purpose)
        layout, late = call.layout, {}
        if not layout.in_order:
            late = call.pair.fact("late parents", lambda: late_parents(call.programs()))
        with call.shared():
            q = call.record(call.guide, call.kwargs)
            log_q = {name: call.log_density(q[name], drawn=purpose.differentiable) for name in call.summed}
            values = {name: site["value"] for name, site in q.items()}
            p = call.run_model(q, values)
            both = [n for n in q if n in p and n not in layout.from_model and n not in call.summed]
            known = {name: -call.over_plates(q[name], _kl(p[name], _drawn(q, name, layout), late)) for name in both}
            return call.add_up(p, q, values, log_q, call.as_drawn(q, log_q), known)


def _drawn(q: Sites, name: str, layout: Layout) -> Any:
    """The site whose distribution is q of a latent: its own, or the one that an autoguide draws and hands on.

    Raises:
        ValueError: the latent is another function of that draw than the draw itself; names the site.
    """
    made_of = {latent: a for a, latents in layout.joint.items() for latent in latents}
    made_of |= {latent: a for a, latent in layout.auxiliary.items()}
    if name not in made_of:
        return q[name]
    # the latent itself is a Delta there, and Pyro's KL of a Delta knows neither log q(a) nor log |det|
    drawn = q[made_of[name]]
    if not torch.equal(drawn["value"], q[name]["value"]):
        raise ValueError(
            f"site {name!r}: no closed-form KL, the guide makes it of its site {drawn['name']!r}, whose density is "
            "another. Use analytic_kl=False"
        )
    return {**drawn, "name": name}


def _kl(p: Any, q: Any, late: dict[str, str]) -> Tensor:
    """KL(q || p) of one site, given the sampled values of its parents.

    Args:
        late: the result of `late_parents`.
    """
    name = q["name"]
    if name in late:
        raise ValueError(
            f"site {name!r}: no closed-form KL, its parent {late[name]!r} in the model comes after it in "
            "the guide (a bottom-up guide), and the KL at a fixed parent is then wrong. Use analytic_kl=False"
        )
    if not _same_mask(p["mask"], q["mask"]):
        raise ValueError(f"site {name!r}: masked differently in model and guide, so its closed-form KL is ambiguous")
    try:
        return kl_divergence(q["fn"], p["fn"])
    except NotImplementedError as error:
        raise ValueError(
            f"site {name!r}: no closed-form KL from {type(q['fn']).__name__} to {type(p['fn']).__name__}. "
            "Use analytic_kl=False"
        ) from error


def _same_mask(p: Any, q: Any) -> bool:
    return p is q or (isinstance(p, Tensor) and isinstance(q, Tensor) and torch.equal(p, q))


def late_parents(programs: Programs) -> dict[str, str]:
    """Latents with a parent in the model that is their descendant in the guide, each with that parent."""

    def parents(fn: Callable, kwargs: dict[str, Any]) -> dict[str, Any]:
        return get_dependencies(fn, programs.args, kwargs)["prior_dependencies"]

    with programs.trial():
        stated, drawn = parents(programs.model, programs.model_kwargs), parents(programs.guide, programs.kwargs)
    # the guide's sites come in the order in which it draws them, so the ancestors of a site's parents are known
    ancestors: dict[str, set[str]] = {}
    for name, direct in drawn.items():
        above = set(direct) - {name}
        ancestors[name] = above.union(*(ancestors.get(parent, set()) for parent in above))
    late = {}
    for name in drawn:
        for parent in set(stated.get(name, ())) - {name}:
            if name in ancestors.get(parent, set()):
                late[name] = parent
    return late
