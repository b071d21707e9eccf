"""Cycles: one of a learned period and damping, and seasons as sums of cycles, as parameters of an LGSSM."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.parts.kalman import Parameters
from zoo.parts.structural.components import APPROXIMATE_DIFFUSE, scalar_series


def cycle(
    cycle_variance: Tensor,
    frequency: Tensor,
    damping: Tensor | None = None,
    observation_variance: Tensor | None = None,
    initial_mean: Tensor | None = None,
    initial_variance: Tensor | float | None = APPROXIMATE_DIFFUSE,
) -> Parameters:
    """(c_t, c*_t) = damping rotation(frequency) (c_{t-1}, c*_{t-1}) + N(0, cycle_variance I), of which x_t is c_t.

    Args:
        cycle_variance: `(...)`; 0 makes the cycle a wave that never changes.
        frequency: radians a frame, 2 pi / period, `(...)`; learn it as `PyroParam(..., constraints.interval(a, b))`.
        damping: between 0 and 1, `(...)`; None is 1.
        observation_variance: `(...)`; None is 0, for a part of a sum.
        initial_mean: of (c, c*) at the first frame, `(..., 2)`.
        initial_variance: of both, `(...)`. None: the stationary cycle_variance / (1 - damping^2).

    Raises:
        ValueError: a stationary start of a cycle without damping.
    """
    if initial_variance is None:
        if damping is None:
            raise ValueError("damping: expected a value below 1, since initial_variance=None asks for stationarity")
        initial_variance = cycle_variance / (1 - damping**2)
    rotation = _rotation(frequency)
    transition = rotation if damping is None else damping[..., None, None] * rotation
    return _waves(transition, cycle_variance, [1.0, 0.0], observation_variance, initial_mean, initial_variance)


@dataclass(frozen=True)
class Trigonometric:
    """The parameters of a sum of waves: `trigonometric(period, harmonics)`, called with its variances."""

    period: float
    harmonics: int

    def __call__(
        self,
        seasonal_variance: Tensor,
        observation_variance: Tensor | None = None,
        initial_mean: Tensor | None = None,
        initial_variance: Tensor | float = APPROXIMATE_DIFFUSE,
    ) -> Parameters:
        like = seasonal_variance
        waves = [_rotation(like.new_tensor(2 * math.pi * j / self.period)) for j in range(1, self.harmonics + 1)]
        # sin(pi t) is zero at every frame: the fastest wave of an even season has one state
        if 2 * self.harmonics == self.period:
            waves[-1] = -like.new_ones(1, 1)
        design = [1.0, 0.0] * (self.harmonics - 1) + [1.0, 0.0][: len(waves[-1])]
        transition = torch.block_diag(*waves)
        return _waves(transition, like, design, observation_variance, initial_mean, initial_variance)


def trigonometric(period: float, harmonics: int | None = None) -> Trigonometric:
    """s_t = sum_j c_jt, each c_j a cycle of frequency 2 pi j / period; one variance for the noise of all.

    Args:
        period: in frames; need not be whole (365.25 days).
        harmonics: number of waves; None: as many as a season can have, period / 2.

    Returns:
        A function of `seasonal_variance` `(...)` and, as in `local_linear_trend`, of `observation_variance`,
        `initial_mean` and `initial_variance`; states (c_1, c*_1, c_2, ...), the last wave of an even period without c*.

    Raises:
        ValueError: a period below 2, harmonics below 1 or beyond period / 2.
    """
    if period < 2:
        raise ValueError(f"trigonometric: expected period >= 2, got {period}")
    most = int(period // 2)
    harmonics = most if harmonics is None else harmonics
    if not 1 <= harmonics <= most:
        raise ValueError(f"harmonics: expected 1 to {most} for a period of {period}, got {harmonics}")
    return Trigonometric(period, harmonics)


def _rotation(frequency: Tensor) -> Tensor:
    cosine, sine = frequency.cos(), frequency.sin()
    return torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)


def _waves(
    transition: Tensor,
    variance: Tensor,
    design: list[float],
    observation_variance: Tensor | None,
    initial_mean: Tensor | None,
    initial_variance: Tensor | float,
) -> Parameters:
    """`scalar_series` whose states all have one variance."""
    variances = variance.unsqueeze(-1).expand(*variance.shape, len(design))
    emission = variance.new_tensor(design)
    return scalar_series(transition, variances, emission, observation_variance, initial_mean, initial_variance)
