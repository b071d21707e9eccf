"""Auxiliary sites of a guide: draws that a latent, a Delta, is made of, as Pyro's autoguides have it.

log q(a) + (log density of the Delta) is the density of z = f(a) where the latter is -log |det df/da|. A mark alone
says nothing of that, so it is looked at.
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.utils import _sum_rightmost


def check_auxiliary(
    guide: Callable, trace: Any, args: tuple, kwargs: dict, auxiliary: dict[str, str], stated: dict[str, Any]
) -> None:
    """Refuses auxiliary sites whose density is not that of the latent which they serve.

    Args:
        trace: of the guide, with these arguments.
        auxiliary: auxiliary site -> latent.
        stated: the model's sites.
    """
    for name, latent in auxiliary.items():
        if [*auxiliary.values()].count(latent) > 1:
            raise ValueError(f"site {latent!r}: made of several auxiliary sites, so its density is not that of one")
        a, site = trace.nodes[name]["value"], trace.nodes[latent]
        log_volume = -site["fn"].log_prob(site["value"])  # what the Delta says of log |det dz/da|
        right = _by_support(a, site["value"], stated[latent]["fn"].support, log_volume.dim())
        if right is None or not _close(right, log_volume):
            right = _by_derivatives(guide, trace, args, kwargs, name, latent, log_volume.dim())
        if right is None or not _close(right, log_volume):
            raise ValueError(
                f"site {name!r}: auxiliary, and {latent!r} is no one-to-one function of it whose Delta has "
                "log_density = -log |det|, so log q(a) is not the density of the latent"
            )


def _close(right: Tensor, said: Tensor) -> bool:
    return right.shape == said.shape and torch.allclose(right, said, rtol=1e-3, atol=1e-3)


def _by_support(a: Tensor, z: Tensor, support: Any, batch_dims: int) -> Tensor | None:
    """log |det| of Pyro's map from the reals onto the support, if that is what made z."""
    transform = biject_to(support)
    try:
        value = transform(a)
    except (RuntimeError, ValueError):  # of other sizes
        return None
    if value.shape != z.shape or not torch.allclose(value, z, rtol=1e-4, atol=1e-4):
        return None
    change = transform.log_abs_det_jacobian(a, z)
    return _sum_rightmost(change, change.dim() - batch_dims)


def _by_derivatives(
    guide: Callable, trace: Any, args: tuple, kwargs: dict, name: str, latent: str, batch_dims: int
) -> Tensor | None:
    """log |det| of the Jacobian of each datum, None where there is none; the guide is run again on a leaf."""
    again = trace.copy()
    leaf = again.nodes[name]["value"].detach().clone().requires_grad_()
    again.nodes[name] = {**again.nodes[name], "value": leaf}
    del again.nodes[latent]  # made anew
    with torch.enable_grad():
        z = poutine.trace(poutine.replay(guide, trace=again)).get_trace(*args, **kwargs).nodes[latent]["value"]
        flat = z.reshape(*z.shape[:batch_dims], -1)
        if leaf.reshape(*leaf.shape[:batch_dims], -1).shape != flat.shape or not z.requires_grad:
            return None
        rows = [torch.autograd.grad(flat[..., i].sum(), leaf, retain_graph=True)[0] for i in range(flat.shape[-1])]
    return torch.linalg.slogdet(torch.stack([row.reshape(flat.shape) for row in rows], -2)).logabsdet
