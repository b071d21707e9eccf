"""Checks of arguments at a program's door: an error names the argument, the value that was expected and the one given.

`rows` checks the shape of data that are vectors, `entries` their values, `sequences` data with a time axis, `supports`
values against a support, `labels` the classes of data, `fixed` latents that a caller gives, `offered` the attributes of
a model, `own` the networks of a caller and what they return, `conditions` all that a program is given beside x. `words`
holds the wording that all share, and the checks of numbers, layer widths and types.
"""

from zoo.parts.checks.conditions import check_condition, refuse_condition
from zoo.parts.checks.entries import check_data
from zoo.parts.checks.fixed import expand_fixed
from zoo.parts.checks.labels import check_labels
from zoo.parts.checks.offered import check_built_for, check_offers
from zoo.parts.checks.own import check_density, check_features, check_module, check_own, mean_of
from zoo.parts.checks.rows import check_rows, check_shape, parameter_of
from zoo.parts.checks.sequences import (
    check_controls,
    check_frames,
    check_gaps,
    check_sequences,
    refuse_entries,
    refuse_unfinite,
    refuse_unobserved,
    whole_frames_only,
)
from zoo.parts.checks.supports import check_support, element, holds
from zoo.parts.checks.words import (
    check_between,
    check_counts,
    check_least,
    check_positive,
    check_tensor,
    listed,
    widths,
)

__all__ = [
    "check_between",
    "check_built_for",
    "check_condition",
    "check_controls",
    "check_counts",
    "check_data",
    "check_density",
    "check_features",
    "check_frames",
    "check_gaps",
    "check_labels",
    "check_least",
    "check_module",
    "check_offers",
    "check_own",
    "check_positive",
    "check_rows",
    "check_sequences",
    "check_shape",
    "check_support",
    "check_tensor",
    "element",
    "expand_fixed",
    "holds",
    "listed",
    "mean_of",
    "parameter_of",
    "refuse_condition",
    "refuse_entries",
    "refuse_unfinite",
    "refuse_unobserved",
    "whole_frames_only",
    "widths",
]
