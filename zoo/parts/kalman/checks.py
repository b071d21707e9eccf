"""The door of `zoo.parts.kalman`: shapes, types and masks before the recursions, and the errors of values after them.

Values are looked at only after a result turned out not to be finite: a look at every parameter before each call would
cost as much as the recursion of a short sequence.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Size, Tensor

from zoo.parts.kalman.layout import Grouping
from zoo.parts.kalman.parameters import EVENTS, UNTIMED, Parameters

_COVARIANCE = list(EVENTS)[1:6]  # the fields that the covariances of the filter depend on
_SERIES = {"x": "m", "z": "n", "u": "k"}  # the letters of their sizes


class Extent(NamedTuple):
    """The broadcast batch axes, the indices of those along which covariances differ, and T."""

    batch: Size
    differing: frozenset[int]
    steps: int


def check(
    parameters: Parameters,
    u: Tensor | None,
    *,
    x: Tensor | None = None,
    z: Tensor | None = None,
    steps: int | None = None,
) -> Extent:
    """Checks types, dtypes, devices and shapes of the parameters and of those of x, z and u that are given.

    steps: T, where neither x nor z says it.

    Raises:
        TypeError: an argument is not a tensor (`initial_mean`, `emission_matrix`: ValueError).
        ValueError: wrong shapes, mixed dtypes or devices, axes that do not broadcast, no frame, no sequence, u missing
            or without a matrix that takes it.
    """
    sequences = {name: value for name, value in (("x", x), ("z", z), ("u", u)) if value is not None}
    _check_types(parameters, sequences)
    check_control(parameters, u)
    sizes = {"n": parameters.state_dim, "m": parameters.data_dim, "k": parameters.control_dim}
    for name, value in sequences.items():
        check_series(name, value, sizes[_SERIES[name]])
    batches, lengths = _leading_axes(parameters, sizes)
    batches |= {name: value.shape[:-2] for name, value in sequences.items()}
    lengths |= {name: value.shape[-2] for name, value in sequences.items()}
    steps = _check_lengths(lengths, list(sequences), steps)
    batch = _broadcast(batches)
    if batch.numel() == 0:
        raise ValueError(f"{next(iter(sequences), 'initial_mean')}: expected at least one sequence, got batch axes "
                         f"{tuple(batch)}")  # fmt: skip
    matrices = [shape for name in _COVARIANCE if (shape := batches.get(name))]
    differing = {len(batch) - len(shape) + i for shape in matrices for i, size in enumerate(shape) if size > 1}
    return Extent(batch, frozenset(differing), steps)


def check_series(name: str, value: Tensor, size: int) -> None:
    """Refuses x, z or u of another shape than `(..., T, size)`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}; torch.as_tensor converts it")
    if value.ndim < 2 or value.shape[-1] != size:
        raise ValueError(f"{name}: expected shape (..., T, {size}), got {tuple(value.shape)}")


def _check_types(parameters: Parameters, sequences: Mapping[str, Tensor]) -> None:
    # these two say n and m: without them no other shape can be named
    for name in ("initial_mean", "emission_matrix"):
        value = getattr(parameters, name)
        if not isinstance(value, Tensor) or value.ndim < len(EVENTS[name]):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a tensor (..., {', '.join(EVENTS[name])}), got {found}")
    values = [*sequences.items(), *zip(EVENTS, parameters, strict=True)]
    named, like = values[0]
    for name, tensor in values:
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            found = type(tensor).__name__
            raise TypeError(f"{name}: expected a torch.Tensor, got {found}; torch.as_tensor converts it")
        if tensor.dtype != like.dtype:
            raise ValueError(f"{name}: expected {like.dtype} like {named}, got {tensor.dtype}; convert one of the two")
        if tensor.device != like.device:
            raise ValueError(f"{name}: expected device {like.device} like {named}, got {tensor.device}")
    if not like.dtype.is_floating_point:
        raise ValueError(f"{named}: expected a floating-point tensor, got {like.dtype}")


def check_control(parameters: Parameters, u: Tensor | None) -> None:
    """Refuses a model with B or D without u, and u without either."""
    if u is None and parameters.control_dim:
        name = "transition_input" if parameters.transition_input is not None else "emission_input"
        raise ValueError(f"u: missing, but the model has {name} for controls of size {parameters.control_dim}")
    if u is not None and not parameters.control_dim:
        raise ValueError("u: given, but the model has neither transition_input nor emission_input")


def _leading_axes(parameters: Parameters, sizes: dict[str, int]) -> tuple[dict[str, Size], dict[str, int]]:
    """The batch axes and the length of the time axis of each field that has them, its event checked."""
    batches: dict[str, Size] = {}
    lengths: dict[str, int] = {}
    for (name, letters), tensor in zip(EVENTS.items(), parameters, strict=True):
        if tensor is None:
            continue
        shape, event = tensor.shape, tuple([sizes[letter] for letter in letters])
        if len(shape) < len(event) or shape[len(shape) - len(event) :] != event:
            raise ValueError(
                f"{name}: expected shape (..., {', '.join(letters)}) = (..., {', '.join(map(str, event))}), where "
                f"initial_mean says n, emission_matrix m, and transition_input or emission_input k; got "
                f"{tuple(tensor.shape)}"
            )
        leading = shape[: len(shape) - len(event)]
        if name in UNTIMED:
            batches[name] = leading
        elif leading:
            lengths[name], batches[name] = leading[-1], leading[:-1]
    return batches, lengths


def _check_lengths(lengths: Mapping[str, int], sequences: list[str], steps: int | None) -> int:
    """T, with which every time axis agrees; a parameter may have length 1."""
    named = sequences[0] if sequences else "T"
    length = lengths[named] if steps is None else steps
    if length < 1:
        raise ValueError(f"{named}: expected at least one frame, got T = {length}")
    for name, found in lengths.items():
        if found != length and (found != 1 or name in sequences):
            wanted = f"{length} frames" + (f" like {named}" if sequences and name != named else "")
            wanted += "" if name in sequences else " (or 1, constant)"
            raise ValueError(f"{name}: expected {wanted}, got {found}")
    return length


def _broadcast(batches: Mapping[str, Size]) -> Size:
    """The batch axes to which all of these broadcast."""
    batch = Size()
    for name, shape in batches.items():
        # most shapes are empty or the same, and a call of `broadcast_shapes` takes 10 microseconds: ten of them would
        # be 5 % of the training step of a short sequence
        if not shape or shape == batch:
            continue
        try:
            batch = torch.broadcast_shapes(batch, shape) if batch else shape
        except RuntimeError:
            other = next(o for o, s in batches.items() if not _are_broadcastable(s, shape))
            raise ValueError(
                f"{other} and {name}: batch axes {tuple(batches[other])} and {tuple(shape)} do not broadcast "
                "(a parameter of each sequence has a time axis too: (N, 1, rows, columns))"
            ) from None
    return batch


def _are_broadcastable(a: Size, b: Size) -> bool:
    # axes are aligned from the right, and the shorter shape counts as filled up with ones
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def coordinate_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask of coordinates, `(..., T, m)`, from a mask of frames or of coordinates.

    Raises:
        ValueError: not boolean, on another device, or of another shape.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask: expected a tensor of torch.bool, True where x is observed, got {found}")
    if mask.device != x.device:
        raise ValueError(f"mask: expected device {x.device} like x, got {mask.device}")
    if mask.shape == x.shape:
        return mask
    if mask.shape == x.shape[:-1]:
        return mask.unsqueeze(-1).expand(x.shape)
    raise ValueError(
        f"mask: expected shape {tuple(x.shape[:-1])} (frames) or {tuple(x.shape)} (coordinates) for x of shape "
        f"{tuple(x.shape)}, got {tuple(mask.shape)}"
    )


def free_mask(mask: Tensor, steps: int, data_dim: int) -> Tensor:
    """The mask of coordinates, `(..., T, m)`, of any batch axes; a mask of both forms counts as one of coordinates.

    Raises:
        ValueError: the last axes are neither (T, m) nor (T,).
    """
    if mask.shape[-2:] == (steps, data_dim):
        return mask
    if mask.shape[-1:] != (steps,):
        raise ValueError(f"mask: expected shape (..., {steps}) or (..., {steps}, {data_dim}), got {tuple(mask.shape)}")
    return mask.unsqueeze(-1).expand(*mask.shape, data_dim)


def check_burn(mask: Tensor, burn: int) -> None:
    """Refuses a sequence with fewer observed frames than are conditioned on. mask: `(..., T, m)`."""
    counts = mask.any(-1).sum(-1)
    if (counts < burn).any():
        place = (counts < burn).nonzero()[0].tolist()
        which = f" {place[0] if len(place) == 1 else tuple(place)} (counted from 0)" if place else ""
        raise ValueError(f"burn: expected at least {burn} observed frames, to be conditioned on; sequence{which} has "
                         f"{int(counts[tuple(place)])}")  # fmt: skip


def check_finite(x: Tensor, masked: bool, name: str = "x") -> None:
    """Refuses NaN and infinity; names the first sequence, frame and coordinate."""
    finite = torch.isfinite(x.detach())
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        where = f"frame {place[-2]}, coordinate {place[-1]}"
        if len(place) > 2:
            where = f"sequence {place[0] if len(place) == 3 else tuple(place[:-2])}, {where}"
        hint = "" if masked else "; say which values are missing with mask=~x.isnan()"
        count = int((~finite).sum())
        raise ValueError(f"{name}: NaN or infinite at {where} (counted from 0), {count} values in all{hint}")


def refuse_covariance(name: str, grouping: Grouping, fine: Tensor, shifted: bool) -> None:
    """Raises for the first time and group at which fine, `(T | 1, P | 1)`, is False: `root` found no covariance."""
    if not fine.all():
        t, group = (~fine).nonzero()[0].tolist()
        where = "" if len(fine) == 1 else f" at t = {t + int(shifted)}"
        where += "" if fine.shape[1] == 1 else _of_sequence(grouping, group, 0)
        counted = " (counted from 0)" if where else ""
        raise ValueError(
            f"{name}: expected a symmetric positive semi-definite matrix, found one that is not{where}{counted}"
        )


def refuse_values(parameters: Parameters, x: Tensor, u: Tensor | None, mask: Tensor | None) -> None:
    """Raises for the first NaN or infinity among the arguments of a call whose result is not finite."""
    for name, tensor in parameters._asdict().items():
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: NaN or infinite at {(~torch.isfinite(tensor)).nonzero()[0].tolist()}")
    if u is not None:
        check_finite(u, False, "u")
    check_finite(x if mask is None else x.masked_fill(~mask, 0.0), mask is not None)


def refuse_moments(grouping: Grouping, factor: Tensor, settled: Tensor, increments: Tensor, data: int) -> None:
    """Raises for a likelihood that is not finite though its input is: x_t has no density, or numbers overflow.

    increments: `(T, P, 1, D)`.
    """
    t, group, _, sequence = (~torch.isfinite(increments)).nonzero()[0].tolist()
    where = f"frame {t}{_of_sequence(grouping, group, sequence)} (counted from 0)"
    # the diagonal of S^1/2: the engines write an exact zero for a direction without variance
    if (factor[min(t, int(settled[group])), group].diagonal()[:data] == 0).any():
        raise ValueError(
            f"emission_covariance: {where} of x is certain given the past, its predicted covariance C P C' + R is "
            "singular, so x has no density; expected noise in every observed direction"
        )
    raise ValueError(f"x: the log-likelihood of {where} is not finite: x or the model's moments overflow float64")


def _of_sequence(grouping: Grouping, group: int, sequence: int) -> str:
    """The words for a sequence, by its place in the caller's batch axes."""
    place = grouping.place(group, sequence)
    return f" of sequence {place[0] if len(place) == 1 else place}" if place else ""
