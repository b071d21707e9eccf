"""Families q(z | prior, context): the density of a guide, independent of the guide's structure."""

from guides.families.codes import GumbelSoftmax, OneHot
from guides.families.diagonal import BoundedDiagonal, Diagonal
from guides.families.family import Family
from guides.families.flows import IAF, Planar, Radial, Spline
from guides.families.from_prior import PrecisionWeighted, Residual
from guides.families.full_rank import FullRank
from guides.families.mixture import Mixture
from guides.families.onto import Onto

__all__ = [
    "IAF",
    "BoundedDiagonal",
    "Diagonal",
    "Family",
    "FullRank",
    "GumbelSoftmax",
    "Mixture",
    "OneHot",
    "Onto",
    "Planar",
    "PrecisionWeighted",
    "Radial",
    "Residual",
    "Spline",
]
