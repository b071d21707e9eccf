"""The input of `zoo.parts.kalman.inference`, checked and made ready for the recursions."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Size, Tensor

from zoo.parts.kalman.checks import check, check_control, check_data, coordinate_mask, refuse_values
from zoo.parts.kalman.layout import layout_of
from zoo.parts.kalman.moments import Given

#: shapes, dtypes and devices that were checked -> batch axes, those along which covariances differ, T
_CHECKED: dict[tuple, tuple[Size, frozenset[int], int]] = {}


def prepare(parameters: Any, x: Tensor, u: Tensor | None, mask: Tensor | None) -> Given:
    """Checks what can be told without looking at values, once for each combination of shapes."""
    named = {"x": (x, 2)} | ({} if u is None else {"u": (u, 2)})
    try:
        check_data(x, parameters.data_dim)
        check_control(parameters, u)
        kinds = tuple(a if a is None else (a.shape, a.dtype, a.device) for a in (*parameters, x, u))
    except AttributeError:  # something is no tensor: it is named
        check(parameters, named)
        raise
    if kinds not in _CHECKED:
        if len(_CHECKED) > 1000:
            _CHECKED.clear()
        _CHECKED[kinds] = check(parameters, named)
    batch, axes, steps = _CHECKED[kinds]
    observed = None
    if mask is not None:
        mask = coordinate_mask(mask, x)
        observed = _distinct(mask)
        axes = axes.union(len(batch) - mask.ndim + 2 + i for i, n in enumerate(observed.shape[:-2]) if n > 1)
    explain = partial(refuse_values, parameters, x, u, mask)
    offset = offset_of(parameters.emission_input, parameters.emission_bias, u)
    y = x if offset is None else x.double() - offset
    if mask is not None:
        y = y.masked_fill(~mask, 0.0)
    layout = layout_of(batch, tuple(sorted(axes)), steps, x.dtype)
    tensors = [*parameters[:6], y, offset_of(parameters.transition_input, parameters.transition_bias, u)]
    return Given(layout, None if observed is None else layout.group(observed, 1), tensors, explain)


def _distinct(mask: Tensor) -> Tensor:
    """The mask with length 1 along the batch axes in which it does not change."""
    for axis in range(mask.ndim - 2):
        first = mask.narrow(axis, 0, 1)
        if mask.shape[axis] > 1 and bool((mask == first).all()):
            mask = first
    return mask


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector over the last axes; a shared matrix in one product."""
    return vector @ matrix.mT if matrix.ndim == 2 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def offset_of(matrix: Tensor | None, bias: Tensor | None, u: Tensor | None) -> Tensor | None:
    """matrix u_t + bias in float64, or None where both are missing."""
    pushed = None if matrix is None or u is None else times(matrix.double(), u.double())
    return pushed if bias is None else bias.double() if pushed is None else pushed + bias.double()


def by_pattern(function: Callable) -> Callable:
    """Runs `function(parameters, x, u, mask)` once for each pattern of missing values, if they are few.

    Sequences that miss the same coordinates of the same frames share their covariances; without this, each would have a
    covariance recursion of its own as soon as one of them differs.
    """

    @wraps(function)
    def grouped(parameters: Any, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Any:
        rows = _patterns(parameters, x, u, mask)
        if rows is None or mask is None:
            return function(parameters, x, u, mask)
        own = u if u is not None and u.ndim == 3 and len(u) == len(x) else None
        try:
            found = [function(parameters, x[i], u if own is None else own[i], mask[i]) for i in rows]
        except ValueError:
            return function(parameters, x, u, mask)  # raises with the sequences counted as the caller counts them
        order = torch.cat(rows).argsort()
        if isinstance(found[0], Tensor):
            return torch.cat(found)[order]
        return type(found[0])(*(torch.cat(parts)[order] for parts in zip(*found, strict=True)))

    return grouped


def _patterns(parameters: Any, x: Tensor, u: Tensor | None, mask: Tensor | None) -> list[Tensor] | None:
    """Rows of x by what they miss; None if nothing is to be gained: one pattern, or fewer than 4 sequences for each."""
    if mask is None or not isinstance(x, Tensor) or x.ndim != 3 or mask.shape[:2] != x.shape[:2] or len(x) < 8:
        return None
    check_data(x, parameters.data_dim)
    check_control(parameters, u)
    axes = [1, 2, 3, 3, 3, 3, 3, 2, 3, 2]  # of the fields without batch axes
    if any(a is not None and a.ndim > most for a, most in zip(parameters, axes, strict=True)):
        return None
    bits = coordinate_mask(mask, x).flatten(1).long()
    generator = torch.Generator(bits.device).manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator, device=bits.device)
    _, pattern = torch.unique((bits * weights).sum(-1), return_inverse=True)
    count = int(pattern.max()) + 1
    if not 1 < count <= len(x) // 4:
        return None
    return [(pattern == i).nonzero().flatten() for i in range(count)]
