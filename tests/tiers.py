"""The tiers of tests: values that only the thorough tier runs, and tests of files that may be missing."""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest

#: of tests that read data sets which neither a package nor this repository holds
needs_files = pytest.mark.skipif("ZOO_DATA" not in os.environ, reason="the data sets are looked for in $ZOO_DATA")


def thorough_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """The values of a parameter, or tuples of several; those that are not in `quick` are `thorough`."""
    marked = []
    for value in values:
        several = value if isinstance(value, tuple) else (value,)
        marked.append(value if value in quick else pytest.param(*several, marks=pytest.mark.thorough))
    return marked
