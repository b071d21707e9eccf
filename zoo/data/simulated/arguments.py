"""Checks of the numbers that simulators are given; the keyword is the argument's name."""

import math
from numbers import Integral


def check_whole(least: int = 1, **counts: int) -> None:
    """Refuses counts that are not whole numbers, or too small.

    Raises:
        ValueError: names the argument.
    """
    for name, count in counts.items():
        # True is an Integral: `num=True` is a mistake, not one sequence
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            raise ValueError(f"{name}: expected a whole number, at least {least}, got {count}")


def check_at_least_zero(**numbers: float) -> None:
    """Refuses numbers that are negative, infinite or NaN.

    Raises:
        ValueError: names the argument.
    """
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}: expected a finite number, at least 0, got {number}")
