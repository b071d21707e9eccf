"""The closed-form KL of a latent site, and where the guide's order of sampling makes it wrong."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from torch.distributions import kl_divergence

from zoo.infer.pair import program


def closed_form_kl(p: Any, q: Any, late: dict[str, str]) -> Tensor:
    """KL(q || p) of one site at its parents; `late`: what `reordered` gives."""
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


def reordered(model: Callable, guide: Callable, args: tuple, kwargs: dict, model_kwargs: dict) -> dict[str, str]:
    """Latents of which a parent in the model is a descendant in the guide: E_q[log q/p] is no KL at fixed parents."""
    parents = get_dependencies(program(model), args, model_kwargs)["prior_dependencies"]
    direct = get_dependencies(program(guide), args, kwargs)["prior_dependencies"]
    ancestors: dict[str, set[str]] = {}
    for name in direct:
        above = set(direct.get(name, ())) - {name}
        ancestors[name] = above.union(*(ancestors.get(a, set()) for a in above))
    return {z: parent for z in direct for parent in set(parents.get(z, ())) - {z} if z in ancestors.get(parent, set())}
