"""What `zoo.parts.kalman.inference` asks of its arguments, and the errors that say what was found instead."""

from typing import Any

import torch
from torch import Size, Tensor

from zoo.parts.kalman.layout import Layout

EVENTS = {  # field -> its axes without time and batch, in the letters of the docstring
    "initial_mean": "n",
    "initial_covariance": "nn",
    "transition_matrix": "nn",
    "transition_covariance": "nn",
    "emission_matrix": "mn",
    "emission_covariance": "mm",
    "transition_input": "nk",
    "transition_bias": "n",
    "emission_input": "mk",
    "emission_bias": "m",
}
_COVARIANCE = list(EVENTS)[1:6]  # what the covariances of the filter depend on
_UNTIMED = ("initial_mean", "initial_covariance")


def check(
    parameters: Any, named: dict[str, tuple[Tensor, int]], steps: int | None = None
) -> tuple[Size, frozenset[int], int]:
    """The broadcast batch axes, those along which covariances differ, and T.

    named: further tensors, with the number of axes of their event and time.
    """
    first = next(iter(named), "initial_mean")
    like = named[first][0] if named else parameters.initial_mean
    for name, tensor in (("initial_mean", parameters.initial_mean), ("emission_matrix", parameters.emission_matrix)):
        if not isinstance(tensor, Tensor) or tensor.ndim < len(EVENTS[name]):
            found = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: expected a tensor (..., {', '.join(EVENTS[name])}), got {found}")
    batches: dict[str, Size] = {}
    times: dict[str, int] = {}
    fields = {name: getattr(parameters, name) for name in EVENTS}
    tensors = {name: a for name, a in fields.items() if a is not None} | {name: a for name, (a, _) in named.items()}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype != like.dtype and tensor.dtype != torch.bool:
            raise ValueError(f"{name}: expected {like.dtype} like {first}, got {tensor.dtype}; convert one of the two")
        if tensor.device != like.device:
            raise ValueError(f"{name}: expected device {like.device} like {first}, got {tensor.device}")
    if not like.dtype.is_floating_point:
        raise ValueError(f"{first}: expected a floating-point tensor, got {like.dtype}")
    sizes = {"n": parameters.state_dim, "m": parameters.data_dim, "k": parameters.control_dim}
    for name, letters in EVENTS.items():
        tensor = fields[name]
        if tensor is None:
            continue
        event = tuple(sizes[letter] for letter in letters)
        if tensor.ndim < len(event) or tuple(tensor.shape[tensor.ndim - len(event) :]) != event:
            raise ValueError(
                f"{name}: expected shape (..., {', '.join(letters)}) = (..., {', '.join(map(str, event))}), where "
                f"initial_mean says n, emission_matrix m, and transition_input or emission_input k; got "
                f"{tuple(tensor.shape)}"
            )
        leading = tensor.shape[: tensor.ndim - len(event)]
        if name in _UNTIMED:
            batches[name] = leading
        elif leading:
            times[name], batches[name] = leading[-1], leading[:-1]
    for name, (tensor, axes) in named.items():
        batches[name] = tensor.shape[: tensor.ndim - axes]
        times[name] = tensor.shape[tensor.ndim - axes]
    length = steps if steps is not None else next(times[name] for name in named)
    if length < 1:
        raise ValueError(f"{first if named else 'T'}: expected at least one frame, got T = {length}")
    for name, time in times.items():
        if time != length and (time != 1 or name in named):
            wanted = f"{length} frames" + (f" like {first}" if named and name != first else "")
            raise ValueError(f"{name}: expected {wanted}{'' if name in named else ' (or 1, constant)'}, got {time}")
    batch = Size()
    for name, shape in batches.items():
        try:
            batch = torch.broadcast_shapes(batch, shape)
        except RuntimeError:
            other = next(o for o, s in batches.items() if not _broadcast(s, shape))
            raise ValueError(
                f"{other} and {name}: batch axes {tuple(batches[other])} and {tuple(shape)} do not broadcast "
                "(a parameter of each sequence has a time axis too: (N, 1, rows, columns))"
            ) from None
    if batch.numel() == 0:
        raise ValueError(f"{first}: expected at least one sequence, got batch axes {tuple(batch)}")
    matrices = [batches[name] for name in _COVARIANCE if name in batches]
    differing = {len(batch) - len(shape) + i for shape in matrices for i, size in enumerate(shape) if size > 1}
    return batch, frozenset(differing), length


def check_control(parameters: Any, u: Tensor | None) -> None:
    """u is given exactly if B or D is there."""
    if u is None and parameters.control_dim:
        name = "transition_input" if parameters.transition_input is not None else "emission_input"
        raise ValueError(f"u: missing, but the model has {name} for controls of size {parameters.control_dim}")
    if u is not None and not parameters.control_dim:
        raise ValueError("u: given, but the model has neither transition_input nor emission_input")
    if isinstance(u, Tensor) and (u.ndim < 2 or u.shape[-1] != parameters.control_dim):
        raise ValueError(f"u: expected shape (..., T, {parameters.control_dim}), got {tuple(u.shape)}")


def check_data(x: Tensor, data_dim: int, name: str = "x") -> None:
    """Type and shape of x, `(..., T, data_dim)`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}; torch.as_tensor converts it")
    if x.ndim < 2 or x.shape[-1] != data_dim:
        raise ValueError(f"{name}: expected shape (..., T, {data_dim}), got {tuple(x.shape)}")


def coordinate_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask of coordinates, `(..., T, m)`, of a mask of frames or coordinates."""
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


def check_finite(x: Tensor, masked: bool, name: str = "x") -> None:
    """Refuses NaN and infinity, with sequence and frame."""
    finite = torch.isfinite(x.detach())
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        where = f"frame {place[-2]}, coordinate {place[-1]}"
        if len(place) > 2:
            where = f"sequence {place[0] if len(place) == 3 else tuple(place[:-2])}, {where}"
        hint = "" if masked else "; say which values are missing with mask=~x.isnan()"
        count = int((~finite).sum())
        raise ValueError(f"{name}: NaN or infinite at {where} (counted from 0), {count} values in all{hint}")


def refuse_covariance(name: str, layout: Layout, fine: Tensor, shifted: bool) -> None:
    """Raises for the first time and group at which `root` found no covariance. fine: `(T | 1, P | 1)`."""
    if not fine.all():
        t, group = (~fine).nonzero()[0].tolist()
        where = "" if len(fine) == 1 else f" at t = {t + int(shifted)}"
        where += "" if fine.shape[1] == 1 else _of(layout, group, 0)
        counted = " (counted from 0)" if where else ""
        raise ValueError(
            f"{name}: expected a symmetric positive semi-definite matrix, found one that is not{where}{counted}"
        )


def refuse_values(parameters: Any, x: Tensor, u: Tensor | None, mask: Tensor | None) -> None:
    """Called where a result is not finite: raises if something that went in is not."""
    for name in EVENTS:
        tensor = getattr(parameters, name)
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: NaN or infinite at {(~torch.isfinite(tensor)).nonzero()[0].tolist()}")
    if u is not None:
        check_finite(u, False, "u")
    check_finite(x if mask is None else x.masked_fill(~mask, 0.0), mask is not None)


def refuse_moments(layout: Layout, factor: Tensor, settled: Tensor, increments: Tensor, data: int) -> None:
    """Raises for a likelihood that is not finite though its input is: x_t has no density, or numbers overflow.

    increments: `(T, P, 1, D)`.
    """
    t, group, _, sequence = (~torch.isfinite(increments)).nonzero()[0].tolist()
    where = f"frame {t}{_of(layout, group, sequence)} (counted from 0)"
    if (factor[min(t, int(settled[group])), group].diagonal()[:data] == 0).any():
        raise ValueError(
            f"emission_covariance: {where} of x is certain given the past, its predicted covariance C P C' + R is "
            "singular, so x has no density; expected noise in every observed direction"
        )
    raise ValueError(f"x: the log-likelihood of {where} is not finite: x or the model's moments overflow float64")


def _of(layout: Layout, group: int, sequence: int) -> str:
    """The words for a sequence, by its place in the caller's batch axes."""
    place = layout.place(group, sequence)
    return f" of sequence {place[0] if len(place) == 1 else place}" if place else ""


def _broadcast(a: Size, b: Size) -> bool:
    try:
        torch.broadcast_shapes(a, b)
    except RuntimeError:
        return False
    return True
