"""Arguments made ready for the recursions: checked, grouped, missing coordinates taken out of the model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.kalman.checks import check, coordinate_mask, refuse_values
from zoo.parts.kalman.layout import Grouping
from zoo.parts.kalman.parameters import Parameters, offset_of


class Tensors(NamedTuple):
    """The tensors that have derivatives, in the caller's axes: six parameters, y = x - D u - d, and B u + b."""

    initial_mean: Tensor
    initial_covariance: Tensor
    transition_matrix: Tensor
    transition_covariance: Tensor
    emission_matrix: Tensor
    emission_covariance: Tensor
    y: Tensor
    offset: Tensor | None


class Problem(NamedTuple):
    """Checked input, before it is laid out.

    mask: grouped, `(T | 1, P | 1, m)`, one where observed.
    explain: raises for arguments that are not finite; called where a result is not.
    """

    grouping: Grouping
    mask: Tensor | None
    tensors: Tensors
    explain: Callable[[], None]


class Canonical(NamedTuple):
    """Model and data in the layout of `engines.pytorch`, which defines G = [C; A] and N = blockdiag(R, Q)."""

    g: Tensor  # (T | 1, P | 1, m + n, n)
    noise: Tensor  # N, (T | 1, P | 1, m + n, m + n)
    initial_covariance: Tensor  # (P, n, n)
    initial_mean: Tensor  # (P, n, D)
    y: Tensor  # (T, P, m, D)
    offset: Tensor  # c, (T | 1, P | 1, n, D | 1)

    @property
    def data_dim(self) -> int:
        return self.y.shape[-2]

    def blocks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C, A, R, Q."""
        m = self.data_dim
        return self.g[..., :m, :], self.g[..., m:, :], self.noise[..., :m, :m], self.noise[..., m:, m:]


def prepare(parameters: Parameters, x: Tensor, u: Tensor | None, mask: Tensor | None) -> Problem:
    """Checks types and shapes, not values, and groups the sequences that share covariances."""
    batch, axes, steps = check(parameters, u, x=x)
    observed = None
    if mask is not None:
        mask = coordinate_mask(mask, x)
        observed = distinct(mask)
        axes = axes.union(len(batch) - mask.ndim + 2 + i for i, n in enumerate(observed.shape[:-2]) if n > 1)
    # D u + d moves x by a known amount: subtracted here, no recursion has to know of it
    offset = offset_of(parameters.emission_input, parameters.emission_bias, u)
    y = x if offset is None else x.double() - offset
    if mask is not None:
        y = y.masked_fill(~mask, 0.0)
    grouping = Grouping(batch, tuple(sorted(axes)), steps, x.dtype)
    tensors = Tensors(*parameters[:6], y, offset_of(parameters.transition_input, parameters.transition_bias, u))
    grouped = None if observed is None else grouping.group(observed, 1)
    return Problem(grouping, grouped, tensors, partial(refuse_values, parameters, x, u, mask))


def distinct(mask: Tensor) -> Tensor:
    """The mask with length 1 along the batch axes in which it does not change: they need no groups of their own."""
    for axis in range(mask.ndim - 2):
        one = mask.narrow(axis, 0, 1)
        if mask.shape[axis] > 1 and bool((mask == one).all()):
            mask = one
    return mask


def canonical(grouping: Grouping, mask: Tensor | None, tensors: Tensors) -> Canonical:
    """Model and data laid out. mask: `(T | 1, P | 1, m)`, one where observed."""
    m_1, p_1, a, q, c, r, y, b = tensors
    c, r = grouping.group(c, 2), grouping.group(r, 2)
    if mask is not None:
        # a missing coordinate: no row in C, unit noise of its own in R, and y = 0. It tells nothing of z, and adds
        # log N(0; 0, 1) to the likelihood, a constant that `moments.forward` leaves out
        c = c * mask.unsqueeze(-1)
        r = r * mask.unsqueeze(-1) * mask.unsqueeze(-2) + torch.diag_embed(1 - mask)
    a, q = grouping.group(a, 2, shifted=True), grouping.group(q, 2, shifted=True)
    data, state = c.shape[-2:]
    g = c.new_empty(*_lead(a, c), data + state, state)  # written into, block by block: half the time of `torch.cat`
    g[..., :data, :], g[..., data:, :] = c, a
    noise = r.new_zeros(*_lead(q, r), data + state, data + state)
    noise[..., :data, :data], noise[..., data:, data:] = r, q
    offset = y.new_zeros(1, 1, state, 1, dtype=torch.float64)
    if b is not None:
        offset = grouping.spread(b, shifted=True, shared=True)
    initial_covariance = grouping.group(p_1, 2, timed=False)
    initial_mean = grouping.spread(m_1, timed=False)
    return Canonical(g, noise, initial_covariance, initial_mean, grouping.spread(y), offset)


def _lead(a: Tensor, b: Tensor) -> tuple[int, int]:
    """Times and groups of two parameters together."""
    return max(len(a), len(b)), max(a.shape[1], b.shape[1])
