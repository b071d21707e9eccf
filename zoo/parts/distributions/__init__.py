"""Densities over vectors, event shape `(d,)`, set up for speed; with closed-form divergences."""

# imported for its effect: torch finds a closed-form divergence only once it is registered
import zoo.parts.distributions.divergences  # noqa: F401
from zoo.parts.distributions.bernoulli import IndependentBernoulli
from zoo.parts.distributions.discrete import Concrete, OneHotCode
from zoo.parts.distributions.discretized_logistic import IndependentDiscretizedLogistic
from zoo.parts.distributions.mixture import MixtureOfNormalsDensity
from zoo.parts.distributions.vector import DiagonalNormal, UnitNormal, VectorDistribution

__all__ = [
    "Concrete",
    "DiagonalNormal",
    "IndependentBernoulli",
    "IndependentDiscretizedLogistic",
    "MixtureOfNormalsDensity",
    "OneHotCode",
    "UnitNormal",
    "VectorDistribution",
]
