"""Small matrices of lanes: eight products, factors or roots at a time, in loops like those for one.

The functions are those of `engines.small_matrices`. A lane cannot branch by itself: where one has to go another way,
both ways are computed, and `choose` takes the right one in each lane.
"""

import numpy as np

from zoo.parts.kalman.engines.lanes.vectors import ALL, at, choose, fabs, piece, sqrt
from zoo.parts.kalman.engines.pytorch import ALLOWED

EPS = float(np.finfo(np.float64).eps)


@piece
def clear(stack, count):
    """Sets the matrices of a stack to zero."""
    for page in range(count):
        matrix = at(stack, page)
        for i in range(stack.rows):
            for j in range(stack.columns):
                matrix[i, j] = 0.0


@piece
def copy(out, a):
    """out = a."""
    for i in range(out.rows):
        for j in range(out.columns):
            out[i, j] = a[i, j]


@piece
def choose_all(bits, a, out):
    """out = a in the lanes of the bits."""
    for i in range(out.rows):
        for j in range(out.columns):
            out[i, j] = choose(bits, a[i, j], out[i, j])


@piece
def multiply(out, a, b):
    """out = a b."""
    # the sum of an entry stays in a register; the scalar engine's order of loops would store it at each term
    for i in range(out.rows):
        for j in range(out.columns):
            value = 0.0
            for k in range(a.columns):
                value += a[i, k] * b[k, j]
            out[i, j] = value


@piece
def multiply_lower(out, a, b):
    """out = a b for a lower triangular b."""
    for i in range(out.rows):
        for j in range(out.columns):
            value = 0.0
            for k in range(j, b.rows):
                value += a[i, k] * b[k, j]
            out[i, j] = value


@piece
def add_product(out, a, b, sign):
    """out += sign a b."""
    for i in range(out.rows):
        for j in range(out.columns):
            value = 0.0
            for k in range(a.columns):
                value += a[i, k] * b[k, j]
            out[i, j] += sign * value


@piece
def square(out, a):
    """out = a a', symmetric to the last bit."""
    for i in range(out.rows):
        for j in range(i + 1):
            value = 0.0
            for k in range(a.columns):
                value += a[i, k] * a[j, k]
            out[i, j] = value
            out[j, i] = value


@piece
def mirror(out):
    """Copies the lower half to the upper one: asymmetry by rounding would grow from step to step."""
    for i in range(out.rows):
        for j in range(i):
            out[j, i] = out[i, j]


@piece
def invert_lower(out, a):
    """out = the inverse of the lower triangular top left of a."""
    for j in range(out.rows):
        out[j, j] = 1.0 / a[j, j]
        for i in range(j + 1, out.rows):
            value = 0.0
            for k in range(j, i):
                value -= a[i, k] * out[k, j]
            out[i, j] = value * (1.0 / a[i, i])
            out[j, i] = 0.0


@piece
def cholesky(matrix, out):
    """Fills out = the factor of a symmetric matrix, from its lower half; the bits of the lanes that lose no digits.

    The diagonal of the matrix becomes 1 / out_ii.
    """
    good = ALL
    for i in range(matrix.rows):
        for j in range(i):
            value = matrix[i, j]
            for k in range(j):
                value -= out[i, k] * out[j, k]
            out[i, j] = value * matrix[j, j]
            out[j, i] = 0.0
        value = matrix[i, i]
        for k in range(i):
            value -= out[i, k] * out[i, k]
        # a pivot of a millionth of its diagonal entry has lost six of sixteen digits; also false for NaN
        good &= value > 1e-6 * matrix[i, i]
        out[i, i] = sqrt(value)
        matrix[i, i] = 1.0 / out[i, i]
    return good


@piece
def root(covariance, rounding, out):
    """Fills out = a lower triangular root, with zero columns where singular; the bits where this is a covariance."""
    size, fine = covariance.rows, ALL
    for j in range(size):
        diagonal = covariance[j, j]
        pivot = diagonal
        for k in range(j):
            pivot -= out[j, k] * out[j, k]
        # a pivot no larger than the rounding of the sums before it is zero: its root would be noise of 1e-8
        regular = pivot > 16 * size * rounding * diagonal
        fine &= (pivot >= -ALLOWED * diagonal) & (diagonal < np.inf)
        out[j, j] = choose(regular, sqrt(pivot), 0.0)
        inverse = choose(regular, 1.0 / out[j, j], 0.0)
        for i in range(j + 1, size):
            value, between = covariance[i, j], covariance[i, i] * diagonal
            fine &= (value - covariance[j, i]) * (value - covariance[j, i]) <= ALLOWED * ALLOWED * fabs(between)
            for k in range(j):
                value -= out[i, k] * out[j, k]
            # semi-definite only if the rest of a column without a pivot vanishes too
            fine &= regular | (value * value <= ALLOWED * between)
            out[i, j] = value * inverse
            out[j, i] = 0.0
    return fine


@piece
def triangularise(array, out):
    """Fills out, lower triangular with out out' = array array', by Householder reflections; overwrites array."""
    for i in range(array.rows):
        norm = 0.0
        for k in range(i, array.columns):
            norm += array[i, k] * array[i, k]
        whole = norm
        for k in range(i):
            whole += array[i, k] * array[i, k]
        norm = sqrt(norm)
        new = norm > 4 * EPS * sqrt(whole)  # elsewhere there is no new direction: the rest is rounding, and set to zero
        pivot = array[i, i]
        end = choose(pivot > 0.0, 0.0 - norm, norm)  # of the other sign: pivot - end is a sum, without cancellation
        array[i, i] = pivot - end
        scale = choose(new, 1.0 / (norm * (norm + fabs(pivot))), 0.0)  # 2 / |v|^2
        for j in range(i + 1, array.rows):
            along = 0.0
            for k in range(i, array.columns):
                along += array[j, k] * array[i, k]
            along *= scale
            for k in range(i, array.columns):
                array[j, k] -= along * array[i, k]
        array[i, i] = choose(new, end, 0.0)
    # signs so that the diagonal is not negative, as that of Cholesky's factor: the two may follow one another in time
    for i in range(out.rows):
        for j in range(out.columns):
            out[i, j] = 0.0
        for j in range(i + 1):
            out[i, j] = choose(array[j, j] < 0.0, 0.0 - array[i, j], array[i, j])
