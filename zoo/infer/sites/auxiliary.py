"""Auxiliary sites of a guide: draws a from which the guide makes a latent z = f(a), a Delta (Pyro's autoguides).

    log q(z) = log q(a) - log |det df/da|.

The guide states the last term as the `log_density` of the Delta. The mark `is_auxiliary` does not promise
that this term is right, so the term is checked against the Jacobian.
"""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.utils import _sum_rightmost

from zoo.infer.sites.programs import Programs


def check_auxiliary(programs: Programs, trace: Any, auxiliary: dict[str, str], stated: dict[str, Any]) -> None:
    """Refuses auxiliary sites whose density is not that of the latent made of them.

    Args:
        trace: of the guide, with these arguments.
        auxiliary: auxiliary site -> latent.
        stated: the model's sites.
    """
    for name, latent in auxiliary.items():
        if [*auxiliary.values()].count(latent) > 1:
            raise ValueError(f"site {latent!r}: made of several auxiliary sites, so its density is not that of one")
        a, site = trace.nodes[name]["value"], trace.nodes[latent]
        said = -site["fn"].log_prob(site["value"])
        # autoguides map by `biject_to`, whose Jacobian is known in closed form; only guides that map in another way
        # need derivatives, a backward pass for each entry of z
        right = _by_support(a, site["value"], stated[latent]["fn"].support, said.dim())
        if right is None or not _close(right, said):
            right = _by_derivatives(programs, trace, name, latent, said.dim())
        if right is None or not _close(right, said):
            raise ValueError(
                f"site {name!r}: auxiliary, and {latent!r} is no one-to-one function of it whose Delta has "
                "log_density = -log |det|, so log q(a) is not the density of the latent"
            )


def cut_out(name: str, stated: dict[str, Any], drawn: dict[str, Any]) -> tuple[str, ...]:
    """The latents that a guide cuts out of one joint draw a, as Pyro's joint autoguides do.

    Args:
        name: of the joint site.
        stated, drawn: the sites of the model and of the guide.

    Raises:
        ValueError: the Deltas that follow the draw are not its parts, mapped onto the model's supports.
    """
    a, rest = drawn[name]["value"], [*drawn][[*drawn].index(name) + 1 :]
    found: list[str] = []
    parts: list[Tensor] = []
    for latent in rest:
        site = drawn[latent]
        if latent not in stated or not isinstance(site["fn"], Delta) or sum(map(len, parts)) >= a.numel():
            break
        transform = biject_to(stated[latent]["fn"].support)
        u = transform.inv(site["value"])
        change = transform.log_abs_det_jacobian(u, site["value"])
        said = -site["fn"].log_prob(site["value"])
        if not _close(_sum_rightmost(change, change.dim() - said.dim()), said):
            break
        found.append(latent)
        parts.append(u.flatten())
    if a.dim() != 1 or not parts or not _close(torch.cat(parts), a):
        raise ValueError(
            f"site {name!r}: auxiliary, and the Deltas that follow it are not its parts, each mapped onto the support "
            "of its latent with log_density = -log |det|, as those of Pyro's joint autoguides are"
        )
    return tuple(found)


def _close(right: Tensor, said: Tensor) -> bool:
    return right.shape == said.shape and torch.allclose(right, said, rtol=1e-3, atol=1e-3)


def _by_support(a: Tensor, z: Tensor, support: Any, batch_dims: int) -> Tensor | None:
    """log |det| of Pyro's map from the reals onto the support, or None if z was made in another way."""
    transform = biject_to(support)
    try:
        value = transform(a)
    except (RuntimeError, ValueError):
        # a has another size than the support
        return None
    if value.shape != z.shape or not torch.allclose(value, z, rtol=1e-4, atol=1e-4):
        return None
    change = transform.log_abs_det_jacobian(a, z)
    return _sum_rightmost(change, change.dim() - batch_dims)


def _by_derivatives(programs: Programs, trace: Any, name: str, latent: str, batch_dims: int) -> Tensor | None:
    """log |det| of each datum's Jacobian, or None if z does not depend on a or has another size."""
    # the guide runs again with a as a leaf; the latent's node is taken out, so that replay makes it anew from the leaf
    again = trace.copy()
    leaf = again.nodes[name]["value"].detach().clone().requires_grad_()
    again.nodes[name] = {**again.nodes[name], "value": leaf}
    del again.nodes[latent]
    with torch.enable_grad():
        rerun = poutine.trace(poutine.replay(programs.guide, trace=again))
        z = rerun.get_trace(*programs.args, **programs.kwargs).nodes[latent]["value"]
        flat = z.reshape(*z.shape[:batch_dims], -1)
        if leaf.reshape(*leaf.shape[:batch_dims], -1).shape != flat.shape or not z.requires_grad:
            return None
        rows = [torch.autograd.grad(flat[..., i].sum(), leaf, retain_graph=True)[0] for i in range(flat.shape[-1])]
    return torch.linalg.slogdet(torch.stack([row.reshape(flat.shape) for row in rows], -2)).logabsdet
