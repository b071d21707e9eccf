"""Series that other series explain, and white noise, as parameters of an LGSSM: parts of sums."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.parts.kalman import Parameters
from zoo.parts.structural.components import APPROXIMATE_DIFFUSE, noise_of, start_of, timed


def irregular(variance: Tensor) -> Parameters:
    """x_t = N(0, variance), white noise without a state, variance `(...)`: a part of a sum."""
    return _stateless(variance)._replace(emission_covariance=noise_of(variance, variance))


def regression(coefficients: Tensor) -> Parameters:
    """x_t = coefficients' u_t without a state: a part of a sum, whose model takes u as its controls.

    Args:
        coefficients: `(..., k)`, k the size of u_t. A forecast takes u of the T + k frames.
    """
    return _stateless(coefficients[..., 0])._replace(emission_input=timed(coefficients.unsqueeze(-2)))


@dataclass(frozen=True, eq=False)
class TimeVaryingRegression:
    """The parameters of a regression: `time_varying_regression(regressors)`, called with its variances."""

    regressors: Tensor

    def __call__(
        self,
        coefficient_variance: Tensor,
        observation_variance: Tensor | None = None,
        initial_mean: Tensor | None = None,
        initial_variance: Tensor | float = APPROXIMATE_DIFFUSE,
        frames: int | None = None,
    ) -> Parameters:
        known, k = self.regressors.shape
        if frames is not None and frames > known:
            raise ValueError(f"regressors: expected those of at least {frames} frames, past and forecast, got {known}")
        like = coefficient_variance
        variances = (like if like.ndim else like.unsqueeze(-1)).expand(*like.shape[:-1], k)
        return Parameters(
            initial_mean=like.new_zeros(k) if initial_mean is None else initial_mean,
            initial_covariance=start_of(initial_variance, like, k),
            transition_matrix=torch.eye(k).to(like),
            transition_covariance=timed(torch.diag_embed(variances)),
            emission_matrix=self.regressors[:frames].to(like).unsqueeze(-2),
            emission_covariance=noise_of(observation_variance, like),
        )


def time_varying_regression(regressors: Tensor) -> TimeVaryingRegression:
    """x_t = b_t' w_t with coefficients b_t = b_{t-1} + N(0, diag(coefficient_variance)), w the regressors.

    Args:
        regressors: `(T', k)`, one row for each frame from the first on, T' at least T, and T + k for a forecast of k
            frames: `LGSSM` tells how many it needs.

    Returns:
        A function of `coefficient_variance`, `()` for all or `(..., k)`, where 0 keeps the coefficients constant; and,
        as in `local_linear_trend`, of `observation_variance`, `initial_mean` `(..., k)` and `initial_variance`.

    Raises:
        ValueError: regressors of another shape, or not finite.
    """
    if regressors.ndim != 2 or 0 in regressors.shape or not torch.isfinite(regressors).all():
        raise ValueError(f"regressors: expected finite values (frames, k), got shape {tuple(regressors.shape)}")
    return TimeVaryingRegression(regressors)


def _stateless(like: Tensor) -> Parameters:
    """The parameters of a scalar series that is zero and has no state."""
    return Parameters(
        initial_mean=like.new_zeros(0),
        initial_covariance=like.new_zeros(0, 0),
        transition_matrix=like.new_zeros(0, 0),
        transition_covariance=like.new_zeros(0, 0),
        emission_matrix=like.new_zeros(1, 0),
        emission_covariance=like.new_zeros(1, 1),
    )
