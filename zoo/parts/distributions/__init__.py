"""Densities over vectors, event shape `(d,)`, set up for speed; with closed-form divergences."""

from zoo.parts.distributions.densities import (
    DiagonalNormal,
    IndependentBernoulli,
    IndependentDiscretizedLogistic,
    MixtureOfNormalsDensity,
    UnitNormal,
)
from zoo.parts.distributions.vector import VectorDistribution

__all__ = [
    "DiagonalNormal",
    "IndependentBernoulli",
    "IndependentDiscretizedLogistic",
    "MixtureOfNormalsDensity",
    "UnitNormal",
    "VectorDistribution",
]
