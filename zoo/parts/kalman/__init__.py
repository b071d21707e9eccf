"""Exact inference in linear Gaussian state-space models: functions over one `Parameters`, no Pyro inside."""

from zoo.parts.kalman.inference import (
    Filtered,
    Forecast,
    Smoothed,
    filter,
    forecast,
    log_emission,
    log_joint,
    log_prior,
    marginal_loglik,
    sample,
    sample_posterior,
    smoother,
)
from zoo.parts.kalman.parameters import Parameters

__all__ = [
    "Filtered",
    "Forecast",
    "Parameters",
    "Smoothed",
    "filter",
    "forecast",
    "log_emission",
    "log_joint",
    "log_prior",
    "marginal_loglik",
    "sample",
    "sample_posterior",
    "smoother",
]
