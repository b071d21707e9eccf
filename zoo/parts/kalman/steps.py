"""The linear-Gaussian model step by step: the steps over which `Trajectory` loops, from `kalman.Parameters`."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.kalman.checks import check_control
from zoo.parts.kalman.parameters import Parameters, offset_of, times


class Step(NamedTuple):
    """The matrices and offsets of one step, or of all steps with a time axis left of the matrix or vector.

    z_1 comes from a transition too, so that the loop over time has no special case: A_1 = 0, offset m_1, noise P_1.
    """

    transition_matrix: Tensor  # A_t
    transition_scale: Tensor  # the lower triangular root of Q_t
    emission_matrix: Tensor  # C_t
    emission_scale: Tensor  # the root of R_t
    transition_offset: Tensor  # B_t u_t + b_t
    emission_offset: Tensor  # D_t u_t + d_t

    def unbind(self, dim: int) -> list["Step"]:
        """The steps one by one; `dim` is the time axis of the vectors."""
        parts = [*(m.unbind(dim - 1) for m in self[:4]), *(v.unbind(dim) for v in self[4:])]
        return [Step(*values) for values in zip(*parts, strict=True)]

    def transition_mean(self, z: Tensor) -> Tensor:
        """E[z_t | z_{t-1}]."""
        return times(self.transition_matrix, z) + self.transition_offset

    def emission_mean(self, z: Tensor) -> Tensor:
        """E[x_t | z_t]."""
        return times(self.emission_matrix, z) + self.emission_offset


def steps(p: Parameters, T: int, u: Tensor | None = None) -> Step:
    """All T steps.

    Raises:
        ValueError: u missing or unasked for, a parameter with another number of frames, a singular P_1, Q or R: in the
            null directions neither z nor x given z has a density.
    """
    check_control(p, u)
    initial, rest, emission = (_root(p, f"{name}_covariance") for name in ("initial", "transition", "emission"))
    nothing = p.transition_matrix.new_zeros(p.state_dim, p.state_dim)
    return Step(
        with_start(nothing, _over_time(p.transition_matrix, T, 2, "transition_matrix")),
        with_start(initial, _over_time(rest, T, 2, "transition_covariance")),
        _over_time(p.emission_matrix, T, 2, "emission_matrix"),
        _over_time(emission, T, 2, "emission_covariance"),
        with_start(p.initial_mean, _offset(p, "transition", p.state_dim, T, u), 1),
        _offset(p, "emission", p.data_dim, T, u),
    )


def _root(p: Parameters, name: str) -> Tensor:
    # a density of z and x is asked for, so roots of singular covariances, which the marginal form takes, do not serve
    root, wrong = torch.linalg.cholesky_ex(getattr(p, name))
    if bool(wrong.any()):
        raise ValueError(
            f"{name}: expected a positive definite matrix, so that z and x have a density, got a singular one or none "
            "at all; the marginal form takes singular ones"
        )
    return root


def _over_time(value: Tensor, T: int, axes: int, name: str) -> Tensor:
    value = value.unsqueeze(0) if value.ndim == axes else value
    if value.shape[-axes - 1] not in (1, T):
        raise ValueError(f"{name}: expected {T} frames (or 1, constant), got {value.shape[-axes - 1]}")
    return value.expand(*value.shape[: -axes - 1], T, *value.shape[-axes:])


def with_start(start: Tensor, timed: Tensor, axes: int = 2) -> Tensor:
    """`timed` with `start` in place of its first entry, which is not used."""
    rest = timed.narrow(-axes - 1, 1, timed.shape[-axes - 1] - 1)
    lead = torch.broadcast_shapes(start.shape[:-axes], rest.shape[: -axes - 1])
    start, rest = start.expand(*lead, *start.shape[-axes:]), rest.expand(*lead, *rest.shape[-axes - 1 :])
    return torch.cat([start.unsqueeze(-axes - 1), rest], -axes - 1)


def _offset(p: Parameters, part: str, size: int, T: int, u: Tensor | None) -> Tensor:
    """B u + b or D u + d, `(..., T, size)`."""
    matrix, bias = getattr(p, f"{part}_input"), getattr(p, f"{part}_bias")
    matrix = None if matrix is None else _over_time(matrix, T, 2, f"{part}_input")
    bias = None if bias is None else _over_time(bias, T, 1, f"{part}_bias")
    offset = offset_of(matrix, bias, u)
    return p.initial_mean.new_zeros(T, size) if offset is None else offset.to(p.initial_mean.dtype)
