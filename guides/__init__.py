"""Guides: everything that approximates a posterior. Structure (the class) and family (an argument) are independent."""

from guides.amortized import Amortized
from guides.exact import Exact
from guides.families import Diagonal, Family, FullRank, Mixture
from guides.flows import IAF, Planar, Radial, Spline
from guides.guide import Guide
from guides.per_datum import PerDatum

__all__ = [
    "IAF",
    "Amortized",
    "Diagonal",
    "Exact",
    "Family",
    "FullRank",
    "Guide",
    "Mixture",
    "PerDatum",
    "Planar",
    "Radial",
    "Spline",
]
