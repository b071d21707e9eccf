"""z_1 ~ N(m_1, P_1); z_t = A_t z_{t-1} + B_t u_t + b_t + N(0, Q_t); x_t = C_t z_t + D_t u_t + d_t + N(0, R_t): exact.

Filter, smoother, likelihood, forecasts and draws of the linear-Gaussian state space model, as functions over one
`Parameters`. Every parameter may be shared, differ between sequences, change in time, or both; any coordinate of any
frame may be missing. Computed in float64 by factors of covariances, never by differences of them, and returned in the
dtype of x. `marginal_loglik` has its gradient by an adjoint recursion; everything else is differentiable too, once.

If numba is installed, the recursions run compiled on the CPU (`pip install 'pyro-latent-zoo[fast]'`), else in PyTorch.

References: Kalman 1960; Rauch, Tung & Striebel 1965; Koopman & Shephard 1992 (the score); Durbin & Koopman 2002
(draws).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from zoo.parts.kalman.checks import check, check_control, check_data, check_finite, coordinate_mask
from zoo.parts.kalman.derivatives import (
    MarginalLoglik,
    differentiable,
    draw,
    filtered_formulas,
    smoothed_change,
    smoothed_formulas,
    with_derivatives,
)
from zoo.parts.kalman.given import by_pattern, offset_of, prepare, times
from zoo.parts.kalman.moments import Given, filtered, smoothed, solve
from zoo.parts.kalman.moments import roots as roots_of

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Parameters(NamedTuple):
    """The parameters of z_t = A_t z_{t-1} + B_t u_t + b_t + N(0, Q_t), x_t = C_t z_t + D_t u_t + d_t + N(0, R_t).

    n, m, k: sizes of z, x and u. Without leading axes a parameter is shared by all sequences and times. Otherwise the
    axis left of the vector or matrix is time (T, or 1 for constant), and those further left are batch axes: `(T, n, n)`
    changes in time, `(N, 1, n, n)` with the sequence, `(N, T, n, n)` with both. m_1 and P_1 have no time axis. Entry t
    of A, B, b and Q leads into z_t: the first is not used. `first + second` is the model of the sum of two independent
    ones.
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
        given = self.transition_input if self.transition_input is not None else self.emission_input
        return 0 if given is None else given.shape[-1]

    def __add__(self, other: "Parameters") -> "Parameters":  # type: ignore[override]
        """x = x_first + x_second: the states side by side, observation noise and offsets added; one u drives both."""
        return _sum(self, other)


class Filtered(NamedTuple):
    """p(z_t | x_{1:t-1}) and p(z_t | x_{1:t}); batch axes first, then time."""

    marginal_loglik: Tensor  # log p(x), nats, (...)
    loglik_per_step: Tensor  # log p(x_t | x_{1:t-1}), (..., T)
    predicted_means: Tensor  # (..., T, n)
    predicted_covariances: Tensor  # (..., T, n, n)
    filtered_means: Tensor
    filtered_covariances: Tensor


class Smoothed(NamedTuple):
    """p(z_t | x_{1:t}) and p(z_t | x_{1:T})."""

    marginal_loglik: Tensor
    filtered_means: Tensor
    filtered_covariances: Tensor
    smoothed_means: Tensor
    smoothed_covariances: Tensor
    smoothed_cross_covariances: Tensor  # Cov(z_{t+1}, z_t | x), (..., T - 1, n, n)


class Forecast(NamedTuple):
    """p(z_{T+1..T+k} | x_{1:T}) and p(x_{T+1..T+k} | x_{1:T}), step by step."""

    predicted_means: Tensor  # (..., k, n)
    predicted_covariances: Tensor
    observation_means: Tensor  # (..., k, m)
    observation_covariances: Tensor


@by_pattern
def marginal_loglik(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """log p(x_{1:T}) of the observed coordinates, nats, `(...)`.

    Args:
        parameters: see `Parameters`.
        x: `(..., T, m)`; batch axes broadcast with those of the parameters.
        u: `(..., T, k)`, needed if there is B or D; u_t enters z_t and x_t, so that u_1 acts on x_1 alone.
        mask: boolean, True where observed: whole frames `(..., T)` or coordinates `(..., T, m)`, the batch axes those
            of x. Where it is False, x may hold anything, NaN too.

    The gradient, with respect to every parameter, x and u, costs about twice the value and stores factors, no graph.

    Raises:
        ValueError: shapes that do not broadcast, mixed dtypes or devices, a covariance that is none, u missing or
            unasked for, a wrong mask, no frames, values of x that are not finite outside the mask, an x_t that the
            model says is certain (its covariance given the past is singular).
        RuntimeError: a second derivative was asked for.
    """
    given = prepare(parameters, x, u, mask)
    return MarginalLoglik.apply(given, *given.tensors)


@by_pattern
def filter(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Filtered:
    """The moments of p(z_t | x_{1:t-1}) and p(z_t | x_{1:t}); arguments and errors as in `marginal_loglik`."""
    given = prepare(parameters, x, u, mask)
    return _moments(given, Filtered, filtered, filtered_formulas)


@by_pattern
def smoother(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Smoothed:
    """The moments of p(z_t, z_{t+1} | x_{1:T}); arguments and errors as in `marginal_loglik`.

    Every covariance is a sum of squares: no variance is negative.
    """
    given = prepare(parameters, x, u, mask)
    return _moments(given, Smoothed, smoothed, smoothed_formulas)


def sample_posterior(
    parameters: Parameters,
    x: Tensor,
    u: Tensor | None = None,
    mask: Tensor | None = None,
    sample_shape: Size = Size(),  # noqa: B008
) -> Tensor:
    """Draws z_{1:T} from p(z | x), reparameterised: `(*sample_shape, ..., T, n)`.

    A draw (z*, x*) of the model moved by the smoother: z = z* + E[z | x] - E[z | x*] (Durbin & Koopman 2002).
    """
    given = prepare(parameters, x, u, mask)
    layout, solved, model = given.layout, solve(given), differentiable(given)
    draws = Size(sample_shape).numel()
    z, drawn = draw(model, solved.noise_root, solved.first, layout.steps, draws)
    return layout.back(z + smoothed_change(solved, model, drawn, draws), Size(sample_shape))


def forecast(
    parameters: Parameters, x: Tensor, k: int, u: Tensor | None = None, mask: Tensor | None = None
) -> Forecast:
    """p(z_{T+i} | x_{1:T}) and p(x_{T+i} | x_{1:T}) for i = 1..k; T counts missing frames too, unlike `LGSSM.forecast`.

    Args:
        k: steps ahead, at least 1.
        u: controls of all T + k steps; parameters that change in time have T + k entries too.

    Other arguments and errors as in `marginal_loglik`.
    """
    if k < 1:
        raise ValueError(f"k: expected at least one step ahead, got {k}")
    check_data(x, parameters.data_dim)
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else coordinate_mask(mask, x)
    check_finite(torch.where(seen, x, 0.0), mask is not None)
    padding = (0, 0, 0, k)
    found = filter(parameters, torch.nn.functional.pad(x, padding), u, torch.nn.functional.pad(seen, padding))
    mean, covariance = found.predicted_means[..., -k:, :], found.predicted_covariances[..., -k:, :, :]
    c, r = (_last(a, k, 2) for a in (parameters.emission_matrix, parameters.emission_covariance))
    observed = (c @ mean.unsqueeze(-1)).squeeze(-1)
    if (offset := offset_of(parameters.emission_input, parameters.emission_bias, u)) is not None:
        observed = (observed + _last(offset, k, 1)).to(x.dtype)
    return Forecast(mean, covariance, observed, c @ covariance @ c.mT + r)


def sample(
    parameters: Parameters, steps: int, u: Tensor | None = None, sample_shape: Size = Size()  # noqa: B008
) -> tuple[Tensor, Tensor]:
    """Draws z `(*sample_shape, ..., T, n)` and x `(*sample_shape, ..., T, m)` from the model, reparameterised.

    steps: T. The batch axes are those of the parameters and u.
    """
    check_control(parameters, u)
    batch, _, _ = check(parameters, {} if u is None else {"u": (u, 2)}, steps)
    nothing = parameters.initial_mean.new_zeros(*batch, steps, parameters.data_dim)
    given = prepare(parameters, nothing, u, None)
    layout, model = given.layout, differentiable(given)
    with torch.no_grad():
        roots = roots_of(layout, model)
    z, x = draw(model, *roots, steps, Size(sample_shape).numel())
    z, x = (layout.back(a, Size(sample_shape)) for a in (z, x))
    offset = offset_of(parameters.emission_input, parameters.emission_bias, u)
    return z, x if offset is None else (x + offset).to(z.dtype)


def log_joint(
    parameters: Parameters, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """log p(z, x of the observed coordinates), nats, `(...)`; batch axes of z and x broadcast.

    Raises:
        ValueError: as `marginal_loglik`, and for a singular P_1, Q or R: then there is no density of z and x.
    """
    return log_prior(parameters, z, u) + log_emission(parameters, z, x, u, mask)


def log_prior(parameters: Parameters, z: Tensor, u: Tensor | None = None) -> Tensor:
    """log p(z), nats, `(...)`."""
    check_data(z, parameters.state_dim, "z")
    check_control(parameters, u)
    check(parameters, {"z": (z, 2)} | ({} if u is None else {"u": (u, 2)}))
    dtype, z = z.dtype, z.double()
    start = _log_normal("initial_covariance", parameters.initial_covariance, z[..., 0, :] - parameters.initial_mean)
    if z.shape[-2] == 1:
        return start.to(dtype)
    a, q = (_last(p, z.shape[-2] - 1, 2) for p in (parameters.transition_matrix, parameters.transition_covariance))
    step = z[..., 1:, :] - times(a.double(), z[..., :-1, :])
    if (offset := offset_of(parameters.transition_input, parameters.transition_bias, u)) is not None:
        step = step - _last(offset, z.shape[-2] - 1, 1)
    return (start + _log_normal("transition_covariance", q, step).sum(-1)).to(dtype)


def log_emission(
    parameters: Parameters, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """log p(x of the observed coordinates | z), nats, `(...)`."""
    check_data(z, parameters.state_dim, "z")
    check_data(x, parameters.data_dim)
    check_control(parameters, u)
    check(parameters, {"x": (x, 2), "z": (z, 2)} | ({} if u is None else {"u": (u, 2)}))
    r, dtype = parameters.emission_covariance, x.dtype
    if mask is not None:
        mask = coordinate_mask(mask, x)
        x = x.masked_fill(~mask, 0.0)
    check_finite(x, mask is not None)
    error = x.double() - times(parameters.emission_matrix.double(), z.double())
    if (offset := offset_of(parameters.emission_input, parameters.emission_bias, u)) is not None:
        error = error - offset
    if mask is None:
        return _log_normal("emission_covariance", r, error).sum(-1).to(dtype)
    seen = mask.double()
    r = r * seen.unsqueeze(-1) * seen.unsqueeze(-2) + torch.diag_embed(1 - seen)
    missing = (1 - seen).sum((-2, -1))
    return (_log_normal("emission_covariance", r, error * seen).sum(-1) + _HALF_LOG_2PI * missing).to(dtype)


def _log_normal(name: str, covariance: Tensor, error: Tensor) -> Tensor:
    """log N(error; 0, covariance)."""
    root, info = torch.linalg.cholesky_ex(covariance.double())
    if (info != 0).any():
        raise ValueError(f"{name}: singular, so z and x have no joint density; expected a positive definite matrix")
    identity = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    inverse = torch.linalg.solve_triangular(root, identity, upper=False)
    log_det = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_det - 0.5 * times(inverse, error).square().sum(-1) - _HALF_LOG_2PI * error.shape[-1]


def _moments(given: Given, kind: Any, values: Callable, formulas: Callable) -> Any:
    """`kind` of the values, with the derivatives of the formulas."""
    solved, layout = solve(given), given.layout
    with torch.no_grad():
        found = values(solved)
    increments, *rest = with_derivatives(found, solved, given, formulas)
    named = dict(zip(kind._fields[-len(rest) :], rest, strict=True))
    back = {name: (layout.back if name.endswith("means") else layout.back_matrix)(a) for name, a in named.items()}
    if "loglik_per_step" in kind._fields:
        back["loglik_per_step"] = layout.back(increments).squeeze(-1)
    return kind(marginal_loglik=layout.back(increments.sum(0, keepdim=True))[..., 0, 0], **back)


def _last(tensor: Tensor, count: int, event: int) -> Tensor:
    """The last `count` entries of the time axis, if there is one that is longer than 1."""
    axis = tensor.ndim - event - 1
    return tensor if axis < 0 or tensor.shape[axis] == 1 else tensor.narrow(axis, tensor.shape[axis] - count, count)


def _sum(first: Parameters, second: Parameters) -> Parameters:
    """The parameters of x = x_first + x_second."""

    def lead(a: Tensor, b: Tensor, event: int) -> tuple[Tensor, Tensor]:
        shape = torch.broadcast_shapes(a.shape[: a.ndim - event], b.shape[: b.ndim - event])
        return a.expand(*shape, *a.shape[a.ndim - event :]), b.expand(*shape, *b.shape[b.ndim - event :])

    def diagonal(a: Tensor, b: Tensor) -> Tensor:
        a, b = lead(a, b, 2)
        n, m = a.shape[-1], b.shape[-1]
        return torch.nn.functional.pad(a, (0, m, 0, m)) + torch.nn.functional.pad(b, (n, 0, n, 0))

    def beside(a: Tensor | None, b: Tensor | None, axis: int, sizes: tuple[int, int]) -> Tensor | None:
        if a is None and b is None:
            return None
        like = a if a is not None else b
        shape = lambda size: (size, like.shape[-1]) if axis == -2 else (size,)  # noqa: E731
        a = a if a is not None else like.new_zeros(shape(sizes[0]))
        b = b if b is not None else like.new_zeros(shape(sizes[1]))
        return torch.cat(lead(a, b, -axis), axis)

    def added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return b if a is None else a if b is None else a + b

    sizes = (first.state_dim, second.state_dim)
    if first.data_dim != second.data_dim:
        raise ValueError(f"emission_matrix: a sum needs one size of x, got {first.data_dim} and {second.data_dim}")
    if first.control_dim and second.control_dim and first.control_dim != second.control_dim:
        raise ValueError(f"u: a sum needs one size of controls, got {first.control_dim} and {second.control_dim}")
    return Parameters(
        torch.cat(lead(first.initial_mean, second.initial_mean, 1), -1),
        diagonal(first.initial_covariance, second.initial_covariance),
        diagonal(first.transition_matrix, second.transition_matrix),
        diagonal(first.transition_covariance, second.transition_covariance),
        torch.cat(lead(first.emission_matrix, second.emission_matrix, 2), -1),
        first.emission_covariance + second.emission_covariance,
        beside(first.transition_input, second.transition_input, -2, sizes),
        beside(first.transition_bias, second.transition_bias, -1, sizes),
        added(first.emission_input, second.emission_input),
        added(first.emission_bias, second.emission_bias),
    )
