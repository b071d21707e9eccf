"""Exact inference in discrete hidden Markov models: functions over one `Chain`, no Pyro inside."""

from zoo.parts.markov.chain import Chain, path_log_joint
from zoo.parts.markov.forward_backward import (
    FilteredStates,
    SmoothedStates,
    filter_states,
    log_evidence,
    sample_paths,
    smooth_states,
)
from zoo.parts.markov.probabilities import StationaryStart
from zoo.parts.markov.statistics import ExpectedCounts, expected_counts
from zoo.parts.markov.viterbi import MostProbable, viterbi

__all__ = [
    "Chain",
    "ExpectedCounts",
    "FilteredStates",
    "MostProbable",
    "SmoothedStates",
    "StationaryStart",
    "expected_counts",
    "filter_states",
    "log_evidence",
    "path_log_joint",
    "sample_paths",
    "smooth_states",
    "viterbi",
]
