"""Structural time-series models as parameters of an LGSSM: trends, seasons, ARIMA, a ball in a box."""

from zoo.parts.structural.components import (
    APPROXIMATE_DIFFUSE,
    ARIMA,
    Seasonal,
    arima,
    ball,
    local_level,
    local_linear_trend,
    seasonal,
)

__all__ = ["APPROXIMATE_DIFFUSE", "ARIMA", "Seasonal", "arima", "ball", "local_level", "local_linear_trend", "seasonal"]
