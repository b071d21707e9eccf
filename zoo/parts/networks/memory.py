"""The differentiable neural dictionary: a memory that is asked for the entries nearest to a state."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.checks import check_counts, check_positive

# bytes of the distances between some queries and all keys; only the k smallest of each query are kept
MAX_BYTES = 2**26


class Retrieved(NamedTuple):
    """The k entries nearest to each query.

    Attributes:
        index: the places of the entries in the memory, `(..., Q, k)`.
        log_weights: log w, w_j proportional to 1 / (d_j^2 + delta), summing to one over the k, `(..., Q, k)`.
    """

    index: Tensor  # type: ignore[assignment]
    log_weights: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The entries of `values` `(..., M, size)` at these places, `(..., Q, k, size)`; leading axes broadcast."""
        return _at(self.index, values)


def retrieve(keys: Tensor, queries: Tensor, k: int, delta: float = 1e-4, mask: Tensor | None = None) -> Retrieved:
    """The k entries of a memory whose keys are nearest to each query, weighted by w_j = 1 / (d_j^2 + delta).

    Distances are Euclidean. The weights are differentiable in keys and queries; which entries are the nearest has no
    gradient. Distances of all pairs are held for as many queries at a time as `MAX_BYTES` allows.

    References: Pritzel et al. 2017; Fraccaro et al. 2018 have k = 5 and delta = 1e-4.

    Args:
        keys: `(..., M, size)`.
        queries: `(..., Q, size)`; leading axes broadcast with those of the keys.
        k: number of entries, at most M.
        delta: squared distance below which entries are as good as equal.
        mask: bool `(..., M)`, False where an entry is empty. Its weight is 0, whatever its key is, and it is retrieved
            only where fewer than k others are there.

    Raises:
        ValueError: k below 1 or above M; delta not positive; keys and queries that are no floats of one dtype, or of
            different sizes; a mask of other entries; a memory of empty entries alone.
    """
    check_counts(neighbours=k)
    check_positive(delta=delta)
    for name, states in (("keys", keys), ("queries", queries)):
        if states.ndim < 2 or not states.is_floating_point() or states.dtype != keys.dtype:
            raise ValueError(f"{name}: expected {keys.dtype if keys.is_floating_point() else 'floats'} of shape "
                             f"(..., any, size), got {states.dtype} of shape {tuple(states.shape)}")  # fmt: skip
    if mask is not None and (mask.dtype != torch.bool or mask.shape[-1:] != keys.shape[-2:-1]):
        raise ValueError(f"mask: expected torch.bool of shape (..., {keys.shape[-2]}), got {mask.dtype} of shape "
                         f"{tuple(mask.shape)}")  # fmt: skip
    if k > keys.shape[-2]:
        raise ValueError(f"neighbours: expected at most {keys.shape[-2]}, the entries of the memory, got {k}")
    if keys.shape[-1] != queries.shape[-1]:
        raise ValueError(f"queries: expected the keys' size, {keys.shape[-1]}, got {queries.shape[-1]}")
    if mask is not None and not bool(mask.any(-1).all()):
        raise ValueError("mask: a memory has no entry, expected at least one that is not empty")
    if mask is not None:
        keys = keys.masked_fill(~mask.unsqueeze(-1), 0.0)
    # In units of the largest coordinate, whose square may overflow: no state is so far that a weight is NaN, or that
    # all distances are infinite and the order is lost. The unit's square is a factor of all weights, and cancels.
    with torch.no_grad():
        largest = torch.linalg.vector_norm(keys, torch.inf, (-2, -1), keepdim=True)
        # of each query its own: one that is far away would round the others
        each = torch.linalg.vector_norm(queries, torch.inf, -1, keepdim=True)
        unit = torch.maximum(largest, each).clamp(min=1.0)
        common = unit.amax(-2, keepdim=True)
        index = _nearest(keys / common, queries / common, k, mask)
    away = (_at(index, keys) - queries.unsqueeze(-2)) / unit.unsqueeze(-1)
    tiny = torch.finfo(away.dtype).tiny
    log_weights = -(away.square().sum(-1) + (delta / unit / unit).clamp(min=tiny)).log()
    if mask is not None:
        log_weights = log_weights.masked_fill(~_at(index, mask.unsqueeze(-1)).squeeze(-1), -torch.inf)
    return Retrieved(index, log_weights.log_softmax(-1))


def _nearest(keys: Tensor, queries: Tensor, k: int, mask: Tensor | None) -> Tensor:
    """The places of the k nearest keys, `(..., Q, k)`."""
    size = _lead(keys, queries).numel() * keys.shape[-2] * keys.element_size()
    found = []
    for some in queries.split(max(1, MAX_BYTES // max(size, 1)), -2):
        # by differences: |a|^2 + |b|^2 - 2ab, the default, is off by 0.03 at states of 50, where sqrt(delta) is 0.01
        distance = torch.cdist(some, keys, compute_mode="donot_use_mm_for_euclid_dist")
        if mask is not None:
            distance = distance.masked_fill(~mask.unsqueeze(-2), torch.inf)
        found.append(distance.topk(k, largest=False).indices)
    return torch.cat(found, -2)


def _at(index: Tensor, values: Tensor) -> Tensor:
    lead = _lead(values, index)
    places = index.expand(*lead, *index.shape[-2:]).flatten(-2).unsqueeze(-1)
    values = values.expand(*lead, *values.shape[-2:])
    return values.gather(-2, places.expand(*places.shape[:-1], values.shape[-1])).unflatten(-2, index.shape[-2:])


def _lead(a: Tensor, b: Tensor) -> torch.Size:
    """The leading axes of two tensors, broadcast."""
    # broadcasting shapes takes as long as a small operation on tensors, and most are equal
    return a.shape[:-2] if a.shape[:-2] == b.shape[:-2] else torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
