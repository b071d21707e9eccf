"""The tiers of tests: values of a parameter that only the thorough tier runs."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values of a parameter, or tuples of several; those that are not in `quick` are `thorough`."""
    marked = []
    for value in values:
        several = value if isinstance(value, tuple) else (value,)
        marked.append(value if value in quick else pytest.param(*several, marks=pytest.mark.thorough))
    return marked
