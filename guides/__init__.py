"""Guides: everything that approximates a posterior. Structure (the class) and family (an argument) are independent."""

from guides.amortized import Amortized
from guides.exact import Exact
from guides.families import Diagonal, Family, FullRank, Mixture, PrecisionWeighted, Residual
from guides.flows import IAF, Planar, Radial, Spline
from guides.guide import Guide
from guides.per_datum import PerDatum
from guides.sequence_guide import SequenceGuide
from guides.sequential import Filter, MeanField, Smoother

__all__ = [
    "IAF",
    "Amortized",
    "Diagonal",
    "Exact",
    "Family",
    "Filter",
    "FullRank",
    "Guide",
    "MeanField",
    "Mixture",
    "PerDatum",
    "Planar",
    "PrecisionWeighted",
    "Radial",
    "Residual",
    "SequenceGuide",
    "Smoother",
    "Spline",
]
