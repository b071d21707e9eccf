"""Guides: everything that approximates a posterior. Structure (the class) and family (an argument) are independent."""

from guides.amortized import Amortized
from guides.auxiliary import Auxiliary
from guides.empty import Empty
from guides.exact import Exact
from guides.factorised import Factorised
from guides.families import (
    IAF,
    BoundedDiagonal,
    Diagonal,
    Family,
    FullRank,
    GumbelSoftmax,
    Mixture,
    OneHot,
    Onto,
    Planar,
    PrecisionWeighted,
    Radial,
    Residual,
    Spline,
)
from guides.guide import Guide
from guides.labelled import Labelled
from guides.levels.bidirectional import Bidirectional
from guides.levels.bottom_up import BottomUp
from guides.levels.hierarchy_guide import HierarchyGuide
from guides.levels.ladder import Ladder
from guides.levels.prior_below import PriorBelow
from guides.levels.top_down import TopDown
from guides.per_datum import PerDatum
from guides.sequences.kalman_smoother import KalmanSmoother
from guides.sequences.remembering import Remembering
from guides.sequences.sequence_guide import SequenceGuide
from guides.sequences.sequential import Filter, MeanField, Smoother
from guides.sequences.watching import Watching
from guides.stacked_labelled import StackedLabelled

__all__ = [
    "IAF",
    "Amortized",
    "Auxiliary",
    "Bidirectional",
    "BottomUp",
    "BoundedDiagonal",
    "Diagonal",
    "Empty",
    "Exact",
    "Factorised",
    "Family",
    "Filter",
    "FullRank",
    "Guide",
    "GumbelSoftmax",
    "HierarchyGuide",
    "KalmanSmoother",
    "Labelled",
    "Ladder",
    "MeanField",
    "Mixture",
    "OneHot",
    "Onto",
    "PerDatum",
    "Planar",
    "PrecisionWeighted",
    "PriorBelow",
    "Radial",
    "Remembering",
    "Residual",
    "SequenceGuide",
    "Smoother",
    "Spline",
    "StackedLabelled",
    "TopDown",
    "Watching",
]
