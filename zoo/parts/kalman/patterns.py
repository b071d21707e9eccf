"""Sequences with the same missing coordinates, run together.

A mask that differs between sequences would give each of them a covariance recursion of its own. But recordings of a few
lengths, or of a sensor that fails on some days, have few different masks, and sequences of one mask share covariances.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from zoo.parts.kalman.checks import coordinate_mask
from zoo.parts.kalman.parameters import EVENTS, UNTIMED, Parameters


def by_pattern(function: Callable) -> Callable:
    """Runs `function(parameters, x, u, mask)` once for each pattern of missing values, if there are few patterns."""

    @wraps(function)
    def one_by_one(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Any:
        rows = _patterns(parameters, x, mask)
        if rows is None or mask is None:
            return function(parameters, x, u, mask)
        own = u if u is not None and u.ndim == 3 and len(u) == len(x) else None
        try:
            found = [function(parameters, x[i], u if own is None else own[i], mask[i]) for i in rows]
        except ValueError:
            # an error of this call numbers the pattern's sequences; the whole batch raises it with the caller's numbers
            return function(parameters, x, u, mask)
        order = torch.cat(rows).argsort()
        if isinstance(found[0], Tensor):
            return torch.cat(found)[order]
        return type(found[0])(*(torch.cat(parts)[order] for parts in zip(*found, strict=True)))

    return one_by_one


def _patterns(parameters: Parameters, x: Tensor, mask: Tensor | None) -> list[Tensor] | None:
    """The rows of x of each pattern; None where nothing is gained: one pattern, or fewer than 4 sequences for each."""
    if mask is None or not isinstance(x, Tensor) or x.ndim != 3 or len(x) < 8:
        return None
    # with batch axes of their own, parameters tell the sequences apart anyway
    events = [len(event) + (name not in UNTIMED) for name, event in EVENTS.items()]
    if any(isinstance(a, Tensor) and a.ndim > most for a, most in zip(parameters, events, strict=True)):
        return None
    # a pattern is a row of T m bits, which `unique` would have to sort; a random sum of 64-bit weights, modulo 2^64,
    # is one number instead. Two patterns share a sum with probability 2^-63. A generator of its own leaves the caller's
    # stream untouched, and groups equal masks alike in every call
    bits = coordinate_mask(mask, x).flatten(1).long()
    generator = torch.Generator(bits.device).manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator, device=bits.device)
    _, pattern = torch.unique((bits * weights).sum(-1), return_inverse=True)
    count = int(pattern.max()) + 1
    # a pattern's own call costs some 0.3 ms, as much as the covariances of several short sequences
    if not 1 < count <= len(x) // 4:
        return None
    return [(pattern == i).nonzero().flatten() for i in range(count)]
