"""Small dense matrices in loops compiled by numba: the pieces of a step of the recursions in `engines.compiled`.

Written out, since at these sizes a call of LAPACK costs more than its work.
"""

import numpy as np
from numba import njit

from zoo.parts.kalman.engines.pytorch import ALLOWED

# cache: compiling takes half a minute, once for a machine. nogil: other threads go on. numpy's error model: a division
# by zero gives an infinity, which the likelihood shows at its end, where a test in each division would keep loops from
# being vectorised. fastmath without nnan and ninf: sums in another order and fused products make these loops fast, but
# the tests for NaN and infinity have to stay
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
# for pieces of a loop over time: a call of a compiled function counts the references of its arrays. With two states
# that takes longer than the work (`congruence` took 2.6 times as long); numba inlines these before it compiles
inlined = njit(inline="always", nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
EPS = float(np.finfo(np.float64).eps)


@compiled
def add_product(out, a, b, sign):
    """out += sign a b."""
    # one sequence: with columns innermost, the loop that is vectorised would have one step
    if b.shape[1] == 1:
        column = b[:, 0]
        for i in range(a.shape[0]):
            value = 0.0
            for k in range(a.shape[1]):
                value += a[i, k] * column[k]
            out[i, 0] += sign * value
        return
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = sign * a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += factor * b[k, j]


@compiled
def add_transposed_product(out, a, b):
    """out += a' b."""
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            factor = a[k, i]
            for j in range(b.shape[1]):
                out[i, j] += factor * b[k, j]


@inlined
def set_times_triangular(out, a, b):
    """out = a b for a lower triangular b."""
    out[:] = 0.0
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(k + 1):
                out[i, j] += factor * b[k, j]


@inlined
def set_inverse_triangular(out, a):
    """Fills the lower half of out = the inverse of the lower triangular top left of a; the upper half must be zero."""
    for j in range(out.shape[0]):
        out[j, j] = 1.0 / a[j, j]
        for i in range(j + 1, out.shape[0]):
            value = 0.0
            for k in range(j, i):
                value -= a[i, k] * out[k, j]
            out[i, j] = value / a[i, i]


@compiled
def symmetric(covariance):
    """Tells whether a covariance is symmetric, up to an asymmetry that passes for rounding."""
    for i in range(covariance.shape[0]):
        for j in range(i):
            size = ALLOWED * ALLOWED * abs(covariance[i, i] * covariance[j, j])
            if not (covariance[i, j] - covariance[j, i]) ** 2 <= size:
                return False
    return True


@compiled
def root_of(covariance, rounding, out):
    """Fills out = a lower triangular root, with zero columns where it is singular; False if this is no covariance."""
    # a column whose pivot is no more than the rounding of the sums before it is zero. The pivot of a singular
    # covariance comes out as plus or minus such a rounding: its root would be noise of 1e-8
    size = covariance.shape[0]
    fine = symmetric(covariance)
    for j in range(size):
        pivot = covariance[j, j]
        for k in range(j):
            pivot -= out[j, k] * out[j, k]
        regular = pivot > 16 * size * rounding * covariance[j, j]
        fine = fine and pivot >= -ALLOWED * covariance[j, j] and covariance[j, j] < np.inf
        out[j, j] = np.sqrt(pivot) if regular else 0.0
        for i in range(j + 1, size):
            square = ALLOWED * covariance[i, i] * covariance[j, j]
            value = covariance[i, j]
            for k in range(j):
                value -= out[i, k] * out[j, k]
            if regular:
                out[i, j] = value / out[j, j]
            else:  # semi-definite only if the rest of the column vanishes too
                fine = fine and value * value <= square
                out[i, j] = 0.0
            out[j, i] = 0.0
    return fine


@compiled
def cholesky(matrix, out):
    """Fills out = the factor of a symmetric matrix, from its lower half; False where digits would be lost."""
    for i in range(matrix.shape[0]):
        for j in range(i):
            value = matrix[i, j]
            for k in range(j):
                value -= out[i, k] * out[j, k]
            out[i, j] = value / out[j, j]
        value = matrix[i, i]
        for k in range(i):
            value -= out[i, k] * out[i, k]
        # a pivot of a millionth of its diagonal entry has lost six of sixteen digits; also false for NaN
        if not value > 1e-6 * matrix[i, i]:
            return False
        out[i, i] = np.sqrt(value)
        for j in range(i + 1, matrix.shape[0]):
            out[i, j] = 0.0
    return True


@compiled
def triangularise(array, out):
    """Fills out, lower triangular with out out' = array array', by Householder reflections; overwrites array."""
    rows, columns = array.shape
    for i in range(rows):
        norm = 0.0
        for k in range(i, columns):
            norm += array[i, k] * array[i, k]
        whole = norm
        for k in range(i):
            whole += array[i, k] * array[i, k]
        norm = np.sqrt(norm)
        if norm <= 4 * EPS * np.sqrt(whole):  # no new direction: the rest is rounding
            for k in range(i, columns):
                array[i, k] = 0.0
            continue
        pivot = array[i, i]
        end = -norm if pivot > 0 else norm  # of the other sign: pivot - end is a sum, without cancellation
        array[i, i] = pivot - end
        size = norm * (norm + abs(pivot))  # half of |v|^2
        for j in range(i + 1, rows):
            along = 0.0
            for k in range(i, columns):
                along += array[j, k] * array[i, k]
            along /= size
            for k in range(i, columns):
                array[j, k] -= along * array[i, k]
        for k in range(i + 1, columns):
            array[i, k] = 0.0
        array[i, i] = end
    # signs so that the diagonal is not negative, as that of Cholesky's factor: the two may follow one another in time
    for i in range(rows):
        for j in range(rows):
            out[i, j] = 0.0 if j > i else (-array[i, j] if array[j, j] < 0 else array[i, j])
