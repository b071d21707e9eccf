"""Filter, smoother, likelihood, forecasts and draws of the linear-Gaussian state-space model, exact.

    z_1 ~ N(m_1, P_1);    z_t = A_t z_{t-1} + B_t u_t + b_t + N(0, Q_t);    x_t = C_t z_t + D_t u_t + d_t + N(0, R_t).

The first observation comes straight from N(m_1, P_1), without a transition before it (Pyro's `GaussianHMM` makes one).

Functions over one `Parameters`. Every parameter may be shared, differ between sequences, change in time, or both; any
coordinate of any frame may be missing. Everything is computed in float64 from factors of covariances, never from
differences of them, and returned in the dtype of x. All results can be differentiated once.

If numba is installed, the recursions run compiled on the CPU (`pip install 'pyro-latent-zoo[fast]'`), else in PyTorch.

References: Kalman 1960; Rauch, Tung & Striebel 1965; Koopman & Shephard 1992 (the score); Durbin & Koopman 2002
(draws).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from zoo.parts.kalman.checks import check, check_finite, check_series, coordinate_mask
from zoo.parts.kalman.derivatives import (
    differentiable,
    draw,
    filtered_formulas,
    loglik,
    smoothed_change,
    smoothed_formulas,
    wants_derivatives,
    with_derivatives,
)
from zoo.parts.kalman.diffuse.moments import filtered_start, smoothed_start
from zoo.parts.kalman.diffuse.start import Begun, begin, diffuse_states, finite_start, refuse_diffuse
from zoo.parts.kalman.engines.captured import is_capturing, marginal_loglik_in_graph
from zoo.parts.kalman.given import Problem, prepare
from zoo.parts.kalman.moments import filtered, filtered_alone, roots, smoothed, smoothed_alone, solve
from zoo.parts.kalman.parameters import Parameters, frames, observed, offset_of, times
from zoo.parts.kalman.patterns import by_pattern

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Filtered(NamedTuple):
    """Means and covariances of p(z_t | x_{1:t-1}) and p(z_t | x_{1:t}); batch axes first, then time."""

    marginal_loglik: Tensor  # log p(x), nats, (...)
    loglik_per_step: Tensor  # log p(x_t | x_{1:t-1}), (..., T)
    predicted_means: Tensor  # (..., T, n)
    predicted_covariances: Tensor  # (..., T, n, n)
    filtered_means: Tensor
    filtered_covariances: Tensor


class Smoothed(NamedTuple):
    """Means and covariances of p(z_t | x_{1:t}) and p(z_t | x_{1:T}); batch axes first, then time."""

    marginal_loglik: Tensor  # log p(x), nats, (...)
    filtered_means: Tensor  # (..., T, n)
    filtered_covariances: Tensor  # (..., T, n, n)
    smoothed_means: Tensor
    smoothed_covariances: Tensor
    smoothed_cross_covariances: Tensor  # Cov(z_{t+1}, z_t | x), (..., T - 1, n, n)


class Forecast(NamedTuple):
    """Means and covariances of p(z_{T+1..T+k} | x_{1:T}) and p(x_{T+1..T+k} | x_{1:T}), step by step."""

    predicted_means: Tensor  # (..., k, n)
    predicted_covariances: Tensor  # (..., k, n, n)
    observation_means: Tensor  # (..., k, m)
    observation_covariances: Tensor  # (..., k, m, m)


@by_pattern
def marginal_loglik(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """log p(x_{1:T}) of the observed coordinates, nats, `(...)`.

    Args:
        parameters: see `Parameters`. Infinite variances in P_1 make a diffuse start (`zoo.parts.kalman.diffuse`): log p
            is then the diffuse likelihood of Durbin & Koopman (2012).
        x: `(..., T, m)`; batch axes broadcast with those of the parameters.
        u: `(..., T, k)`, needed if there is B or D. u_t enters z_t and x_t; u_1 acts on x_1 alone, since z_1 comes from
            N(m_1, P_1).
        mask: boolean, True where observed: whole frames `(..., T)` or coordinates `(..., T, m)`, the batch axes those
            of x. Where the mask is False, x may hold anything, NaN too.

    The gradient, with respect to every parameter, x and u, costs about twice the value and stores factors, no graph.

    Raises:
        TypeError: x, u or a parameter is no tensor (`initial_mean`, `emission_matrix`: ValueError).
        ValueError: shapes that do not broadcast, mixed dtypes or devices, a covariance that is not positive
            semi-definite, u missing or unasked for, a wrong mask, no frames, observed values of x that are not finite,
            an x_t that is certain under the model (its covariance given the past is singular).
        RuntimeError: a second derivative was asked for.
    """
    # values are looked at here, which a graph being captured does not have
    if not is_capturing() and (begun := begin(parameters, x, u, mask)) is not None:
        return _total(begun, None if begun.later is None else marginal_loglik(*begun.later)).to(x.dtype)
    problem = prepare(parameters, x, u, mask)
    # a mask is looked at in Python, which a graph cannot do: its capture is refused
    if mask is None and is_capturing():
        return marginal_loglik_in_graph(problem, x.dtype)
    return loglik(problem)


@by_pattern
def filter(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Filtered:
    """The moments of p(z_t | x_{1:t-1}) and p(z_t | x_{1:t}); arguments and errors as in `marginal_loglik`.

    With a diffuse start, moments given fewer frames than determine it are NaN, and `loglik_per_step` has the density of
    all of these frames at the last of them.
    """
    if (begun := begin(parameters, x, u, mask, whole=True)) is not None:
        found = None if begun.later is None else filter(*begun.later)
        return _after_start(begun, Filtered, found, filtered_start(begun), x)
    problem = prepare(parameters, x, u, mask)
    return _moments(problem, Filtered, filtered_alone, filtered, filtered_formulas)


@by_pattern
def smoother(parameters: Parameters, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> Smoothed:
    """The moments of p(z_t, z_{t+1} | x_{1:T}); arguments and errors as in `marginal_loglik`.

    Every covariance is a sum of squares: no variance is negative. (Of the first frames after a diffuse start it is a
    difference.)
    """
    if (begun := begin(parameters, x, u, mask, whole=True)) is not None:
        if begun.later is None:
            return _after_start(begun, Smoothed, None, smoothed_start(begun), x)
        found = smoother(*begun.later)
        ahead = found.smoothed_means[..., 0, :], found.smoothed_covariances[..., 0, :, :]
        return _after_start(begun, Smoothed, found, smoothed_start(begun, *ahead), x)
    problem = prepare(parameters, x, u, mask)
    return _moments(problem, Smoothed, smoothed_alone, smoothed, smoothed_formulas)


def sample_posterior(
    parameters: Parameters,
    x: Tensor,
    u: Tensor | None = None,
    mask: Tensor | None = None,
    sample_shape: Size = Size(),  # noqa: B008
) -> Tensor:
    """Draws z_{1:T} from p(z | x), `(*sample_shape, ..., T, n)`, reparameterised; the rest as in `marginal_loglik`."""
    # a draw (z*, x*) of the model moved by the smoother: z = z* + E[z | x] - E[z | x*] (Durbin & Koopman 2002). Means
    # alone are moved, so all draws share the covariances; sampling backwards would need a factor of each conditional
    if diffuse_states(parameters) is not None:
        return _diffuse_draws(parameters, x, u, mask, Size(sample_shape))
    problem = prepare(parameters, x, u, mask)
    grouping, solved, model = problem.grouping, solve(problem), differentiable(problem)
    num = Size(sample_shape).numel()
    z, drawn = draw(model, solved.noise_root, solved.initial_root, grouping.steps, num)
    return grouping.back(z + smoothed_change(solved, model, drawn, num), Size(sample_shape))


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
    check_series("x", x, parameters.data_dim)
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else coordinate_mask(mask, x)
    # checked here, before the padding: then the message asks for a mask only where the caller gave none
    check_finite(torch.where(seen, x, 0.0), mask is not None)
    # the future is k missing frames, whose predicted moments are the forecast
    padding = (0, 0, 0, k)
    found = filter(parameters, torch.nn.functional.pad(x, padding), u, torch.nn.functional.pad(seen, padding))
    mean, covariance = found.predicted_means[..., -k:, :], found.predicted_covariances[..., -k:, :, :]
    ahead = slice(-k, None)
    moments = observed(frames(parameters, ahead), mean, covariance, None if u is None else u[..., ahead, :])
    return Forecast(mean, covariance, *moments)


def sample(
    parameters: Parameters,
    steps: int,
    u: Tensor | None = None,
    sample_shape: Size = Size(),  # noqa: B008
) -> tuple[Tensor, Tensor]:
    """Draws z `(*sample_shape, ..., T, n)` and x `(*sample_shape, ..., T, m)` from the model, reparameterised.

    steps: T. The batch axes are those of the parameters and u.
    """
    batch, _, _ = check(parameters, u, steps=steps)
    refuse_diffuse(parameters, "a draw of the model")
    zeros = parameters.initial_mean.new_zeros(*batch, steps, parameters.data_dim)
    problem = prepare(parameters, zeros, u, None)
    grouping, model = problem.grouping, differentiable(problem)
    with torch.no_grad():
        noise_root, initial_root = roots(grouping, model)
    z, x = draw(model, noise_root, initial_root, steps, Size(sample_shape).numel())
    z, x = (grouping.back(a, Size(sample_shape)) for a in (z, x))
    offset = offset_of(parameters.emission_input, parameters.emission_bias, u)
    return z, x if offset is None else (x + offset).to(z.dtype)


def log_joint(
    parameters: Parameters, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """log p(z, x_observed), nats, `(...)`, of z `(..., T, n)`; batch axes of z and x broadcast.

    Raises:
        ValueError: as `marginal_loglik`, and for a singular P_1, Q or R: then z and x have no joint density.
    """
    return log_prior(parameters, z, u) + log_emission(parameters, z, x, u, mask)


def log_prior(parameters: Parameters, z: Tensor, u: Tensor | None = None) -> Tensor:
    """log p(z), nats, `(...)`; errors as in `log_joint`."""
    check(parameters, u, z=z)
    refuse_diffuse(parameters, "the density of z")
    dtype, z = z.dtype, z.double()
    start = _log_normal("initial_covariance", parameters.initial_covariance, z[..., 0, :] - parameters.initial_mean)
    if z.shape[-2] == 1:
        return start.to(dtype)
    p, later = frames(parameters, slice(1, None)), None if u is None else u[..., 1:, :]
    step = z[..., 1:, :] - times(p.transition_matrix.double(), z[..., :-1, :])
    if (offset := offset_of(p.transition_input, p.transition_bias, later)) is not None:
        step = step - offset
    return (start + _log_normal("transition_covariance", p.transition_covariance, step).sum(-1)).to(dtype)


def log_emission(
    parameters: Parameters, z: Tensor, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """log p(x_observed | z), nats, `(...)`; errors as in `log_joint`."""
    check(parameters, u, x=x, z=z)
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
    # a missing coordinate has error 0 and unit noise of its own, so it adds a known constant, which is taken off
    seen = mask.double()
    r = r * seen.unsqueeze(-1) * seen.unsqueeze(-2) + torch.diag_embed(1 - seen)
    missing = (1 - seen).sum((-2, -1))
    return (_log_normal("emission_covariance", r, error * seen).sum(-1) + _HALF_LOG_2PI * missing).to(dtype)


def _log_normal(name: str, covariance: Tensor, error: Tensor) -> Tensor:
    """log N(error; 0, covariance)."""
    # one factorisation of a shared covariance serves all errors: `MultivariateNormal` would expand it to each of them
    root, info = torch.linalg.cholesky_ex(covariance.double())
    if (info != 0).any():
        raise ValueError(f"{name}: singular, so z and x have no joint density; expected a positive definite matrix")
    identity = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    inverse = torch.linalg.solve_triangular(root, identity, upper=False)
    log_det = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_det - 0.5 * times(inverse, error).square().sum(-1) - _HALF_LOG_2PI * error.shape[-1]


def _moments(problem: Problem, kind: Any, alone: Callable, values: Callable, formulas: Callable) -> Any:
    """`Filtered` or `Smoothed`: numbers by `alone`, or, where derivatives are wanted, by `values` and `formulas`."""
    if wants_derivatives(problem):
        solved = solve(problem)
        with torch.no_grad():
            found = values(solved)
        found = with_derivatives(found, solved, problem, formulas)
    else:
        found = alone(problem)
    grouping, (increments, *rest) = problem.grouping, found
    named = dict(zip(kind._fields[-len(rest) :], rest, strict=True))
    back = {name: (grouping.back if name.endswith("means") else grouping.back_matrix)(a) for name, a in named.items()}
    if "loglik_per_step" in kind._fields:
        back["loglik_per_step"] = grouping.back(increments).squeeze(-1)
    return kind(marginal_loglik=grouping.back(increments.sum(0, keepdim=True))[..., 0, 0], **back)


# --- after a diffuse start ------------------------------------------------------------------------------------------


def _total(begun: Begun, later: Tensor | None) -> Tensor:
    return begun.log_density if later is None else begun.log_density + later


def _after_start(begun: Begun, kind: Any, later: Any, first: dict[str, Tensor], x: Tensor) -> Any:
    """`Filtered` or `Smoothed` of all frames, from the fields of the first ones and the moments of the later ones."""
    total = _total(begun, None if later is None else later.marginal_loglik)
    fields = {}
    for name, start in first.items():
        axis = -1 if name == "loglik_per_step" else -2 if name.endswith("means") else -3
        parts = [start] if later is None else [start, getattr(later, name)]
        lead = torch.broadcast_shapes(total.shape, *(a.shape[:axis] for a in parts))
        fields[name] = torch.cat([a.expand(*lead, *a.shape[axis:]) for a in parts], axis).to(x.dtype)
    return kind(marginal_loglik=total.to(x.dtype), **fields)


def _diffuse_draws(p: Parameters, x: Tensor, u: Tensor | None, mask: Tensor | None, sample_shape: Size) -> Tensor:
    """`sample_posterior` of a diffuse start."""
    # the error of a smoother of x does not depend on the diffuse states, so the draw that it moves may start anywhere
    batch, _, steps = check(p, u, x=x)
    proper = finite_start(p)
    z, drawn = sample(proper._replace(initial_mean=p.initial_mean.expand(*batch, -1)), steps, u, sample_shape)
    seen = None if mask is None else coordinate_mask(mask, x)
    ours, theirs = smoother(p, x, u, seen), smoother(p, drawn, u, None if seen is None else seen.expand(drawn.shape))
    return z + ours.smoothed_means - theirs.smoothed_means
