"""Guides: everything that approximates a posterior. Structure (the class) and family (an argument) are independent."""

from guides.amortized import Amortized
from guides.exact import Exact
from guides.families import (
    IAF,
    Diagonal,
    Family,
    FullRank,
    Mixture,
    Planar,
    PrecisionWeighted,
    Radial,
    Residual,
    Spline,
)
from guides.guide import Guide
from guides.per_datum import PerDatum
from guides.sequences.sequence_guide import SequenceGuide
from guides.sequences.sequential import Filter, MeanField, Smoother

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
