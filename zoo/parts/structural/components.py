"""Parameters of well-known linear-Gaussian models: functions of named tensors, for `LGSSM` and for sums.

    LGSSM(local_level, level_variance=PyroParam(...), observation_variance=PyroParam(...))
    LGSSM(lambda a, b, c: local_level(a, b) + seasonal(12)(c), a=..., b=..., c=...)

Every function is differentiable in its tensors, which may have batch axes. Parameterisation, order of the states and
start are those of statsmodels (`UnobservedComponents`, `SARIMAX` with `simple_differencing=False`). A state that is not
stationary starts in one of two ways.

- At N(0, 1e6), the "approximate diffuse" start, the default. statsmodels leaves as many frames as there are such states
  out of the likelihood (`loglikelihood_burn`); `LGSSM(..., burn=)` leaves out as many observed frames.
- With `initial_variance=math.inf` at the exact diffuse start of Durbin & Koopman (2012), which needs no burn:
  statsmodels' `use_exact_diffuse`. The likelihood has the term -log(2 pi) / 2 for each frame that a diffuse state uses
  up, so that the Nile has -633.46 where 99 years given the first have -632.55 (variances 15098.5 and 1469.2).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.parts.kalman import Parameters

#: statsmodels' variance of a state about whose start nothing is known; at 1e12 a likelihood keeps half of its digits
APPROXIMATE_DIFFUSE = 1e6


def ball(
    dt: float,
    g: float = 9.81,
    *,
    measurement_variance: float = 1.0,
    transition_variance: float = 1e-4,
    dtype: torch.dtype | None = None,
) -> tuple[Parameters, Tensor]:
    """A ball in the air, z = (x, x', y, y'), seen with noise at (x, y); and its control u = (0, 0, g, g).

    z_t = A z_{t-1} + B u + noise with A = blockdiag([1 dt; 0 1], [1 dt; 0 1]) and B zero but for B_33 = -dt^2/2 and
    B_44 = -dt. The laws of motion are free of noise; here the transition has a little, so that z has a density.

    Args:
        dt: seconds between frames.
        g: acceleration, metres per second squared.
        measurement_variance: variance of the noise of each measured position.
        transition_variance: variance of the noise of each state at each step.
        dtype: of all tensors; None: torch's default.

    Returns:
        The parameters, starting at N(0, 100 I), and u `(4,)`; models take `u.expand(N, T, 4)`.
    """
    like = torch.zeros((), dtype=dtype or torch.get_default_dtype())
    # built in double precision and rounded once, whatever the default dtype is
    eye = torch.eye(4).to(like)
    step = torch.block_diag(*[torch.tensor([[1.0, dt], [0.0, 1.0]], dtype=torch.float64)] * 2)
    control = torch.diag(torch.tensor([0.0, 0.0, -0.5 * dt**2, -dt], dtype=torch.float64))
    parameters = Parameters(
        initial_mean=like.new_zeros(4),
        initial_covariance=100.0 * eye,
        transition_matrix=step.to(like),
        transition_covariance=transition_variance * eye,
        emission_matrix=eye[[0, 2]],
        emission_covariance=measurement_variance * eye[:2, :2],
        transition_input=control.to(like),
    )
    return parameters, like.new_tensor([0.0, 0.0, g, g])


def local_level(
    level_variance: Tensor,
    observation_variance: Tensor | None = None,
    initial_mean: Tensor | None = None,
    initial_variance: Tensor | float | None = APPROXIMATE_DIFFUSE,
) -> Parameters:
    """level_t = level_{t-1} + N(0, level_variance), x_t = level_t + N(0, observation_variance).

    Args:
        level_variance: `(...)`.
        observation_variance: `(...)`; None is 0, for a part of a sum.
        initial_mean, initial_variance: of the level at the first frame, `(...)`. None for the variance: the frames
            begin with the second of a series whose first value was `initial_mean`, so that the level there has variance
            level_variance + observation_variance: an exact diffuse start, its first frame given.
    """
    if initial_variance is None:
        if initial_mean is None:
            raise ValueError("initial_mean: expected the value of the frame before, since initial_variance is None")
        initial_variance = level_variance if observation_variance is None else level_variance + observation_variance
    one = torch.ones_like(level_variance)
    mean = None if initial_mean is None else initial_mean.unsqueeze(-1)
    return _series([[one]], [level_variance], [one], observation_variance, mean, initial_variance)


def local_linear_trend(
    level_variance: Tensor,
    trend_variance: Tensor,
    observation_variance: Tensor | None = None,
    initial_mean: Tensor | None = None,
    initial_variance: Tensor | float = APPROXIMATE_DIFFUSE,
) -> Parameters:
    """level_t = level_{t-1} + trend_{t-1} + N(0, level_variance), trend_t = trend_{t-1} + N(0, trend_variance).

    Args:
        level_variance: `(...)`; 0 makes the trend smooth.
        trend_variance: `(...)`; 0 too makes it straight.
        observation_variance: `(...)`; None is 0, for a part of a sum.
        initial_mean: of (level, trend) at the first frame, `(..., 2)`.
        initial_variance: of both, `(...)`.
    """
    one, nil = torch.ones_like(level_variance), torch.zeros_like(level_variance)
    transition = [[one, one], [nil, one]]
    variances = [level_variance, trend_variance]
    return _series(transition, variances, [one, nil], observation_variance, initial_mean, initial_variance)


@dataclass(frozen=True)
class Seasonal:
    """The parameters of a seasonal pattern: `seasonal(period)`, called with its variances."""

    period: int

    def __call__(
        self,
        seasonal_variance: Tensor,
        observation_variance: Tensor | None = None,
        initial_mean: Tensor | None = None,
        initial_variance: Tensor | float = APPROXIMATE_DIFFUSE,
    ) -> Parameters:
        one, nil = torch.ones_like(seasonal_variance), torch.zeros_like(seasonal_variance)
        size = self.period - 1
        transition = [[-one] * size] + [[one if j == i else nil for j in range(size)] for i in range(size - 1)]
        variances, design = [seasonal_variance] + [nil] * (size - 1), [one] + [nil] * (size - 1)
        return _series(transition, variances, design, observation_variance, initial_mean, initial_variance)


def seasonal(period: int) -> Seasonal:
    """s_t = -s_{t-1} - ... - s_{t-period+1} + N(0, seasonal_variance): a pattern of `period` frames that sums to 0.

    Returns:
        A function of `seasonal_variance` `(...)` and, as in `local_linear_trend`, of `observation_variance`,
        `initial_mean` `(..., period - 1)` and `initial_variance`; states (s_t, ..., s_{t-period+2}).
    """
    if period < 2:
        raise ValueError(f"seasonal: expected period >= 2, got {period}")
    return Seasonal(period)


@dataclass(frozen=True)
class ARIMA:
    """The parameters of an ARIMA model: `arima(p, d, q, seasonal)`, called with its variance and coefficients."""

    p: int
    d: int
    q: int
    seasonal: tuple[int, int, int, int]

    def __call__(
        self,
        variance: Tensor,
        ar: Tensor | None = None,
        ma: Tensor | None = None,
        seasonal_ar: Tensor | None = None,
        seasonal_ma: Tensor | None = None,
        intercept: Tensor | None = None,
        observation_variance: Tensor | None = None,
        initial_variance: Tensor | float = APPROXIMATE_DIFFUSE,
    ) -> Parameters:
        p, d, q, (P, D, Q, s) = self.p, self.d, self.q, self.seasonal
        orders = {"ar": p, "ma": q, "seasonal_ar": P, "seasonal_ma": Q}
        differences, size = d + s * D, max(p + s * P, q + s * Q + 1)
        total = differences + size
        coefficients = {"ar": ar, "ma": ma, "seasonal_ar": seasonal_ar, "seasonal_ma": seasonal_ma}
        for name, value in coefficients.items():
            found = 0 if value is None else value.shape[-1]
            if found != orders[name]:
                raise ValueError(f"{name}: expected {orders[name]} coefficients for arima{(p, d, q)}, "
                                 f"seasonal={self.seasonal}, got {found}")  # fmt: skip
        # the ARMA part (Harvey 1989): the first column of the transition holds the lags of the product polynomial, the
        # first column of the noise's root the shocks
        one = torch.ones_like(variance).unsqueeze(-1)
        lags = -_product(_polynomial(one, ar, -1, 1), _polynomial(one, seasonal_ar, -1, s))[..., 1:]
        shocks = _product(_polynomial(one, ma, 1, 1), _polynomial(one, seasonal_ma, 1, s))
        companion = F.pad(lags, (0, size - lags.shape[-1])).unsqueeze(-1)
        companion = F.pad(companion, (0, size - 1)) + torch.diag(one.new_ones(size - 1), 1)
        selection = F.pad(shocks, (0, size - shocks.shape[-1])).unsqueeze(-1)
        noise = selection @ selection.mT * variance[..., None, None]
        spread = _stationary_covariance(companion, noise)

        # in front of it the states that sum the differences up again; only these are diffuse
        fixed = _differencing(d, D, s, one.new_zeros(total, total))
        design = F.pad(fixed.new_ones(1), (0, size - 1))
        season = F.pad(fixed.new_ones(1), (max(s - 1, 0), 0)).repeat(D)
        design = torch.cat([fixed.new_ones(d), season, design]).unsqueeze(0)
        inner, outer = (differences, 0, differences, 0), (0, size, 0, size)
        diffuse = start_of(initial_variance, one, differences)
        # an intercept moves the stationary mean of the ARMA part too: it solves mean = A mean + bias
        mean, bias = one.new_zeros(total), None
        if intercept is not None:
            bias = F.pad(intercept.unsqueeze(-1), (differences, size - 1))
            level = torch.linalg.solve(torch.eye(size).to(one) - companion, bias[..., differences:].unsqueeze(-1))
            mean = F.pad(level.squeeze(-1), (differences, 0))
        return Parameters(
            initial_mean=mean,
            initial_covariance=F.pad(diffuse, outer) + F.pad(spread, inner),
            transition_matrix=timed(fixed + F.pad(companion, inner)),
            transition_covariance=timed(F.pad(noise, inner)),
            emission_matrix=design,
            emission_covariance=noise_of(observation_variance, design),
            transition_bias=None if bias is None else (bias if bias.ndim == 1 else bias.unsqueeze(-2)),
        )


def arima(p: int, d: int = 0, q: int = 0, seasonal: tuple[int, int, int, int] = (0, 0, 0, 0)) -> ARIMA:
    """(1 - L)^d y_t = w_t, w_t = intercept + sum_i ar_i w_{t-i} + e_t + sum_j ma_j e_{t-j}, e_t ~ N(0, variance).

    Harvey's representation; the states are, in this order, those that sum the differences up again, started at
    N(0, initial_variance), and the ARMA part, started at its stationary distribution. The latter exists for
    stationary `ar` only: learn it as `PyroParam(..., constraint=stationary)`, and `ma` as `invertible`
    (`zoo.parts.stationary`).

    Args:
        p, d, q: orders.
        seasonal: P, D, Q, s: the orders of a second set of polynomials, in L^s, which multiply the first set.

    Returns:
        A function of `variance` `(...)`; `ar` `(..., p)`, `ma` `(..., q)`, `seasonal_ar` `(..., P)`, `seasonal_ma`
        `(..., Q)`, each given exactly if its order is not 0; and, if wanted, `intercept`, `observation_variance` and
        `initial_variance`, `(...)`.
    """
    P, D, Q, s = seasonal
    if min(p, d, q, *seasonal) < 0 or (max(P, D, Q) > 0 and s < 2):
        raise ValueError(f"arima: expected orders >= 0 and a season of at least 2, got {(p, d, q)} and {seasonal}")
    return ARIMA(p, d, q, (P, D, Q, s))


def autoregressive(order: int) -> ARIMA:
    """y_t = ar_1 y_{t-1} + ... + ar_order y_{t-order} + e_t, e_t ~ N(0, variance): `arima(order)`, as a component."""
    return arima(order)


def _series(
    transition: list[list[Tensor]],
    variances: list[Tensor],
    design: list[Tensor],
    observation_variance: Tensor | None,
    initial_mean: Tensor | None,
    initial_variance: Tensor | float,
) -> Parameters:
    """`scalar_series` of entries, whose transition and design are constants."""
    rows = [_stack(row) for row in transition]
    # the same along all batch axes: without axes they are shared, and make no groups
    first = (0,) * (rows[0].ndim - 1)
    constants = torch.stack(rows, -2)[first], _stack(variances), _stack(design)[first]
    return scalar_series(*constants, observation_variance, initial_mean, initial_variance)


def scalar_series(
    transition: Tensor,
    variances: Tensor,
    design: Tensor,
    observation_variance: Tensor | None,
    initial_mean: Tensor | None,
    initial_variance: Tensor | float,
) -> Parameters:
    """The parameters of a scalar series with independent noise in each of n states.

    Args:
        transition: `(..., n, n)`.
        variances: of the noise, `(..., n)`.
        design: `(n,)`.
        observation_variance, initial_mean, initial_variance: as in `local_linear_trend`.
    """
    size = len(design)
    return Parameters(
        initial_mean=design.new_zeros(size) if initial_mean is None else initial_mean.to(design),
        initial_covariance=start_of(initial_variance, design, size),
        transition_matrix=timed(transition),
        transition_covariance=timed(torch.diag_embed(variances)),
        emission_matrix=design.unsqueeze(0),
        emission_covariance=noise_of(observation_variance, design),
    )


def _stack(entries: list[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*entries), -1)


def timed(matrix: Tensor) -> Tensor:
    """A matrix with the time axis that `Parameters` asks of one with batch axes."""
    return matrix if matrix.ndim == 2 else matrix.unsqueeze(-3)


def noise_of(variance: Tensor | None, like: Tensor) -> Tensor:
    """R of a scalar series; None is 0."""
    return like.new_zeros(1, 1) if variance is None else timed(variance.unsqueeze(-1).unsqueeze(-1))


def start_of(variance: Tensor | float, like: Tensor, size: int) -> Tensor:
    """P_1 of `size` states of one variance, `(..., size, size)`."""
    # no product with the identity: infinity times zero is no number
    each = torch.as_tensor(variance).to(like).unsqueeze(-1)
    return torch.diag_embed(each.expand(*each.shape[:-1], size))


def _polynomial(one: Tensor, coefficients: Tensor | None, sign: int, step: int) -> Tensor:
    """The coefficients of the lag polynomial 1 + sign * (c_1 L^step + c_2 L^(2 step) + ...), from L^0 upwards."""
    if coefficients is None:
        return one
    spaced = F.pad(sign * coefficients.unsqueeze(-1), (step - 1, 0)).flatten(-2)
    lead = torch.broadcast_shapes(one.shape[:-1], coefficients.shape[:-1])
    return torch.cat([one.expand(*lead, 1), spaced.expand(*lead, -1)], -1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two polynomials."""
    extra = b.shape[-1] - 1
    return torch.stack([F.pad(a, (i, extra - i)) * b[..., i : i + 1] for i in range(extra + 1)]).sum(0)


def _stationary_covariance(transition: Tensor, noise: Tensor) -> Tensor:
    """The solution P of P = A P A' + Q, by one linear system in the entries of P."""
    # exact and differentiable; scipy's `solve_discrete_lyapunov` is not differentiable, and a doubling iteration slows
    # down as the largest eigenvalue comes close to 1. The system has n^4 entries: n is the order of an ARMA, a handful
    size = transition.shape[-1]
    if not torch.isfinite(transition).all():  # LAPACK may crash on these
        raise ValueError("ar: NaN or infinite")
    if (radius := torch.linalg.eigvals(transition.detach()).abs().max().item()) >= 1:
        raise ValueError(f"ar: not stationary, expected eigenvalues within the unit circle, got radius {radius:.6g}; "
                         "learn it under zoo.parts.stationary.stationary")  # fmt: skip
    both = torch.einsum("...ij,...kl->...ikjl", transition, transition).flatten(-4, -3).flatten(-2)
    solved = torch.linalg.solve(torch.eye(size**2).to(both) - both, noise.flatten(-2).unsqueeze(-1))
    # rounding leaves it a little off symmetry
    solved = solved.squeeze(-1).unflatten(-1, (size, size))
    return (solved + solved.mT) / 2


def _differencing(d: int, D: int, s: int, matrix: Tensor) -> Tensor:
    """Writes into the transition matrix the part that sums differences; the ARMA part stands from d + s D on."""
    arma = d + s * D
    for i in range(D):
        start, end = d + i * s, d + (i + 1) * s
        matrix[range(start + 1, end), range(start, end - 1)] = 1.0
        matrix[start, end - 1] = 1.0
        matrix[start, arma] = 1.0
        if i < D - 1:
            matrix[start, end + s - 1] = 1.0
    for i in range(d):
        matrix[i, i:d] = 1.0
        matrix[i, [d + (j + 1) * s - 1 for j in range(D)] + [arma]] = 1.0
    return matrix
