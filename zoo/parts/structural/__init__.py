"""Structural time-series models as parameters of an LGSSM: trends, seasons, cycles, regressions, ARIMA, sums."""

from zoo.parts.structural.components import (
    APPROXIMATE_DIFFUSE,
    ARIMA,
    Seasonal,
    arima,
    autoregressive,
    ball,
    local_level,
    local_linear_trend,
    seasonal,
)
from zoo.parts.structural.cycles import Trigonometric, cycle, trigonometric
from zoo.parts.structural.diagnostics import ResidualTests, Tested
from zoo.parts.structural.information import Estimates
from zoo.parts.structural.parts import Component
from zoo.parts.structural.regressors import TimeVaryingRegression, irregular, regression, time_varying_regression
from zoo.parts.structural.summary import Summary
from zoo.parts.structural.sums import Components, components

__all__ = [
    "APPROXIMATE_DIFFUSE",
    "ARIMA",
    "Component",
    "Components",
    "Estimates",
    "ResidualTests",
    "Seasonal",
    "Summary",
    "Tested",
    "TimeVaryingRegression",
    "Trigonometric",
    "arima",
    "autoregressive",
    "ball",
    "components",
    "cycle",
    "irregular",
    "local_level",
    "local_linear_trend",
    "regression",
    "seasonal",
    "time_varying_regression",
    "trigonometric",
]
