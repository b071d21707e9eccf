"""Exact inference in discrete hidden Markov models: functions over one `Chain`, no Pyro inside."""

from zoo.parts.markov.chain import Chain, log_joint
from zoo.parts.markov.forward_backward import Filtered, Smoothed, filter, log_evidence, sample_paths, smoother
from zoo.parts.markov.probabilities import StationaryStart
from zoo.parts.markov.statistics import Expected, expect
from zoo.parts.markov.viterbi import MostProbable, viterbi

__all__ = [
    "Chain",
    "Expected",
    "Filtered",
    "MostProbable",
    "Smoothed",
    "StationaryStart",
    "expect",
    "filter",
    "log_evidence",
    "log_joint",
    "sample_paths",
    "smoother",
    "viterbi",
]
