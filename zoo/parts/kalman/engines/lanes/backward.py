"""What passes back over time share: the gains of a step, and what the future says of z_t.

With the innovations w and the factors F of the filter,

    r_{t-1} = C' S^-1/2' w_t + (A - K C)' r_t,    I_{t-1} = C' S^-1 C + (A - K C)' I_t (A - K C),    r_T = I_T = 0.
"""

from typing import Any, NamedTuple

from zoo.parts.kalman.engines.lanes.algebra import add_product, copy, invert_lower, mirror, multiply
from zoo.parts.kalman.engines.lanes.memory import clear, take
from zoo.parts.kalman.engines.lanes.vectors import inlined, part, piece, transposed


class Gains(NamedTuple):
    """The gains of a step, from F_t."""

    inverse: Any  # S^-1/2
    scaled: Any  # S^-1/2 C
    closed: Any  # A - K C
    gain: Any  # K


class Future(NamedTuple):
    """r_t and I_t, and scratch for the step to r_{t-1} and I_{t-1}."""

    mean: Any  # r
    information: Any  # I
    product: Any
    before: Any


@piece
def take_gains(pool, n, m):
    return Gains(take(pool, 1, m, m), take(pool, 1, m, n), take(pool, 1, n, n), take(pool, 1, n, m))


@piece
def take_future(pool, n):
    return Future(take(pool, 1, n, 1), take(pool, 1, n, n), take(pool, 1, n, n), take(pool, 1, n, 1))


@piece
def begin_future(future):
    clear(future.mean, 1)
    clear(future.information, 1)


@inlined
def set_gains(g, factor, gains):
    """The gains of a step from G and F."""
    m, n = gains.scaled.rows, gains.scaled.columns
    invert_lower(gains.inverse, factor)
    multiply(gains.scaled, gains.inverse, part(g, 0, 0, m, n))
    copy(gains.closed, part(g, m, 0, n, n))
    add_product(gains.closed, part(factor, m, 0, n, m), gains.scaled, -1.0)


@inlined
def pull(gains, white, future):
    """Goes from r_t and I_t to r_{t-1} and I_{t-1}."""
    closed, scaled = transposed(gains.closed), transposed(gains.scaled)
    multiply(future.product, future.information, gains.closed)
    multiply(future.information, closed, future.product)
    add_product(future.information, scaled, gains.scaled, 1.0)
    mirror(future.information)
    copy(future.before, future.mean)
    multiply(future.mean, closed, future.before)
    add_product(future.mean, scaled, white, 1.0)
