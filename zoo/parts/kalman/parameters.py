"""The parameters of a linear-Gaussian state-space model: sizes, batch axes, slices of frames, sums of two models."""

from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.nn.functional import pad

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
UNTIMED = ("initial_mean", "initial_covariance")  # fields without a time axis


class Parameters(NamedTuple):
    """The parameters of z_t = A_t z_{t-1} + B_t u_t + b_t + N(0, Q_t), x_t = C_t z_t + D_t u_t + d_t + N(0, R_t).

    n, m, k: sizes of z, x and u. A parameter without leading axes is shared by all sequences and times. Otherwise the
    axis left of the vector or matrix is time (length T, or 1 for a constant), and the axes further left are batch axes:
    `(T, n, n)` changes in time, `(N, 1, n, n)` with the sequence, `(N, T, n, n)` with both. m_1 and P_1 have no time
    axis. Entry t of A, B, b and Q leads from z_{t-1} into z_t, so entry 1 is not used: z_1 comes from N(m_1, P_1).

    `p + q` is the model of x_p + x_q for independent x_p and x_q: states side by side, noise and offsets added.
    """

    initial_mean: Tensor  # m_1 (..., n)
    initial_covariance: Tensor  # P_1 (..., n, n)
    transition_matrix: Tensor  # A (..., n, n)
    transition_covariance: Tensor  # Q (..., n, n), may be singular
    emission_matrix: Tensor  # C (..., m, n)
    emission_covariance: Tensor  # R (..., m, m), may be singular
    transition_input: Tensor | None = None  # B (..., n, k)
    transition_bias: Tensor | None = None  # b (..., n)
    emission_input: Tensor | None = None  # D (..., m, k)
    emission_bias: Tensor | None = None  # d (..., m)

    @property
    def state_dim(self) -> int:
        return self.initial_mean.shape[-1]

    @property
    def data_dim(self) -> int:
        return self.emission_matrix.shape[-2]

    @property
    def control_dim(self) -> int:
        """Size of u; 0 without B and D."""
        matrix = self.transition_input if self.transition_input is not None else self.emission_input
        return 0 if matrix is None else matrix.shape[-1]

    # `tuple.__add__` takes any tuple, so this signature has to; a tuple of ten is read as the ten fields
    def __add__(self, other: tuple[Any, ...], /) -> "Parameters":
        """The model of the sum, its states those of both; one u drives both."""
        return sum_of(self, Parameters(*other))


def sum_of(p: Parameters, q: Parameters) -> Parameters:
    """The parameters of x_p + x_q.

    Raises:
        ValueError: the sizes of x differ, or those of u.
    """
    if p.data_dim != q.data_dim:
        raise ValueError(f"emission_matrix: a sum needs one size of x, got {p.data_dim} and {q.data_dim}")
    if p.control_dim and q.control_dim and p.control_dim != q.control_dim:
        raise ValueError(f"u: a sum needs one size of controls, got {p.control_dim} and {q.control_dim}")
    sizes = (p.state_dim, q.state_dim)
    return Parameters(
        torch.cat(_expanded(p.initial_mean, q.initial_mean, 1), -1),
        _block_diagonal(p.initial_covariance, q.initial_covariance),
        _block_diagonal(p.transition_matrix, q.transition_matrix),
        _block_diagonal(p.transition_covariance, q.transition_covariance),
        torch.cat(_expanded(p.emission_matrix, q.emission_matrix, 2), -1),
        p.emission_covariance + q.emission_covariance,
        _stacked(p.transition_input, q.transition_input, -2, sizes),
        _stacked(p.transition_bias, q.transition_bias, -1, sizes),
        _added(p.emission_input, q.emission_input),
        _added(p.emission_bias, q.emission_bias),
    )


def _expanded(a: Tensor, b: Tensor, event: int) -> tuple[Tensor, Tensor]:
    """Both with the leading axes that they broadcast to."""
    shape = torch.broadcast_shapes(a.shape[: a.ndim - event], b.shape[: b.ndim - event])
    return a.expand(*shape, *a.shape[a.ndim - event :]), b.expand(*shape, *b.shape[b.ndim - event :])


def _block_diagonal(a: Tensor, b: Tensor) -> Tensor:
    a, b = _expanded(a, b, 2)
    n, m = a.shape[-1], b.shape[-1]
    return pad(a, (0, m, 0, m)) + pad(b, (n, 0, n, 0))


def _stacked(a: Tensor | None, b: Tensor | None, axis: int, sizes: tuple[int, int]) -> Tensor | None:
    """The two one after the other along an axis of these sizes, zeros for one that is missing."""
    like = a if a is not None else b
    if like is None:
        return None
    tail = like.shape[like.ndim + axis + 1 :]
    a, b = (like.new_zeros(n, *tail) if v is None else v for v, n in zip((a, b), sizes, strict=True))
    return torch.cat(_expanded(a, b, -axis), axis)


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


# --- linear maps -----------------------------------------------------------------------------------------------------


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector over the last axes; the leading axes broadcast."""
    # a shared matrix is applied to all vectors by one product, not by a batch of small ones
    return vector @ matrix.mT if matrix.ndim == 2 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def offset_of(matrix: Tensor | None, bias: Tensor | None, u: Tensor | None) -> Tensor | None:
    """matrix u_t + bias in float64, or None where both are missing."""
    pushed = None if matrix is None or u is None else times(matrix.double(), u.double())
    return pushed if bias is None else bias.double() if pushed is None else pushed + bias.double()


def observed(p: Parameters, means: Tensor, covariances: Tensor, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Moments of x_t = C z_t + D u_t + d + N(0, R) from those of z_t: `(..., T, m)`, `(..., T, m, m)`."""
    mean, c = times(p.emission_matrix, means), p.emission_matrix
    # the offset stays in float64 until it is added: it may be far larger than the changes of x that it carries
    if (offset := offset_of(p.emission_input, p.emission_bias, u)) is not None:
        mean = (mean + offset).to(mean.dtype)
    return mean, c @ covariances @ c.mT + p.emission_covariance


# --- axes ------------------------------------------------------------------------------------------------------------


def frames(parameters: Parameters, which: slice) -> Parameters:
    """The parameters of some of the frames; those that are constant in time stay as they are."""
    cut: dict[str, Tensor] = {}
    for name, (value, axes) in _timed(parameters).items():
        if value.ndim > axes and value.shape[-axes - 1] > 1:
            cut[name] = value[(..., which, slice(None), slice(None))[: axes + 2]]
    return parameters._replace(**cut)


def doubled(parameters: Parameters) -> Parameters:
    """The parameters in float64."""
    given = {name: value.double() for name, value in parameters._asdict().items() if value is not None}
    return parameters._replace(**given)


def batch_axes(parameters: Parameters, *sequences: Tensor) -> Size:
    """The batch axes of the parameters and of sequences `(..., T, size)`, broadcast.

    Raises:
        ValueError: two of them do not broadcast.
    """
    shapes = [parameters.initial_mean.shape[:-1], parameters.initial_covariance.shape[:-2]]
    shapes += [value.shape[: -axes - 1] for value, axes in _timed(parameters).values()]
    try:
        return torch.broadcast_shapes(*shapes, *(s.shape[:-2] for s in sequences))
    except RuntimeError as error:
        found = {name: tuple(v.shape) for name, v in parameters._asdict().items() if v is not None}
        raise ValueError(
            f"batch axes of {found} and of x, u, mask of shapes {[tuple(s.shape) for s in sequences]} do not broadcast"
        ) from error


def sizes_of(parameters: Parameters) -> tuple[int | None, int | None]:
    """The numbers of sequences and of frames that the parameters are for; None where they serve any number."""
    batch = batch_axes(parameters).numel()
    steps = max((v.shape[-axes - 1] for v, axes in _timed(parameters).values() if v.ndim > axes), default=1)
    return batch if batch > 1 else None, steps if steps > 1 else None


def _timed(parameters: Parameters) -> dict[str, tuple[Tensor, int]]:
    """The fields that are there and may have a time axis, with the number of axes right of it."""
    values = {name: value for name, value in parameters._asdict().items() if value is not None}
    return {name: (value, len(EVENTS[name])) for name, value in values.items() if name not in UNTIMED}
