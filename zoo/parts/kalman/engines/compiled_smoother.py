"""The smoother for groups of sequences that share covariances: one compiled pass from the last step down.

The equations are those of `zoo.parts.kalman.moments.Backward`. All that depends on covariances alone is computed again
only while it changes: the filter's part until the factors have settled, the smoother's until the information has too.
"""

import numpy as np

from zoo.parts.kalman.engines.compiled_adjoint import are_same, pull_information
from zoo.parts.kalman.engines.small_matrices import (
    add_product,
    add_transposed_product,
    cholesky,
    compiled,
    inlined,
    set_inverse_triangular,
    set_times_triangular,
    triangularise,
)


@inlined
def _set_square(root, out):
    """out = root root', symmetric to the last bit."""
    for i in range(out.shape[0]):
        for j in range(i + 1):
            value = 0.0
            for k in range(root.shape[1]):
                value += root[i, k] * root[j, k]
            out[i, j] = value
            out[j, i] = value


@inlined
def _set_product(out, a, b):
    """out = a b."""
    out[:] = 0.0
    add_product(out, a, b, 1.0)


@compiled
def _set_filtered(f, g, spread, noise_root, gains, filtered):
    """Sets gains and the root of Cov(z_t | x_{1:t}), from F, G, L and N^1/2; its square; A times the two."""
    inverse, scaled, closed, half, gain, seen = gains
    root, moved, covariance, carried = filtered
    data, state = scaled.shape
    set_inverse_triangular(inverse, f)
    _set_product(scaled, inverse, g[:data])
    closed[:] = g[data:]
    add_product(closed, f[data:, :data], scaled, -1.0)
    _set_product(seen, scaled, spread)
    _set_product(half, spread, seen.T)  # P C' S^-1/2' = L (S^-1/2 C L)'
    _set_product(gain, half, inverse)
    # Joseph: (1 - K C) L beside K R^1/2, a sum of squares for any gain K
    set_times_triangular(seen, g[:data], spread)
    root[:, :state] = spread
    add_product(root[:, :state], gain, seen, -1.0)
    set_times_triangular(root[:, state:], gain, noise_root[:data, :data])
    _set_square(root, covariance)
    _set_product(moved, g[data:], root)
    _set_product(carried, g[data:], covariance)


@compiled
def _set_smoothed(f, filtered, information, scratch, covariance, cross):
    """Bryson & Frazier: the smoothed covariance and Cov(z_{t+1}, z_t | x); False where digits would be lost."""
    root, moved, _, carried = filtered
    product, kept, inner, ahead, left = scratch
    state, columns = root.shape
    _set_product(product, information, moved)
    kept[:] = 0.0
    for i in range(columns):
        kept[i, i] = 1.0
    for k in range(state):
        for i in range(columns):
            factor = moved[k, i]
            for j in range(i + 1):
                kept[i, j] -= factor * product[k, j]
    if not cholesky(kept, inner):
        return False
    for i in range(columns):
        # the criterion of `moments.backward`: the future has left a thousandth of a variance
        if not inner[i, i] * inner[i, i] > 1e-3:
            return False
    set_times_triangular(product, root, inner)
    _set_square(product, covariance)
    _set_square(f[columns - state :, columns - state :], ahead)
    _set_product(left, information, carried)
    cross[:] = carried
    add_product(cross, ahead, left, -1.0)
    return True


@compiled
def _set_conditional(noise_root, filtered, later, pull, covariance, cross):
    """Rauch, Tung & Striebel: the same from Cov(z_{t+1} | x), later, by factors; and J in pull."""
    root, moved, _, _ = filtered
    state, columns = root.shape
    array, factor = np.zeros((2 * state, columns + state)), np.empty((2 * state, 2 * state))
    array[:state, :columns] = moved
    array[:state, columns:] = noise_root[columns - state :, columns - state :]
    array[state:, :columns] = root
    triangularise(array, factor)
    for j in range(state - 1, -1, -1):
        pivot = factor[j, j] if factor[j, j] != 0.0 else 1.0  # a direction without noise says nothing new
        for i in range(state):
            value = factor[state + i, j]
            for k in range(j + 1, state):
                value -= pull[i, k] * factor[k, j]
            pull[i, j] = value / pivot
    _set_product(cross, later, pull.T)
    _set_square(factor[state:, state:], covariance)
    product = np.empty((state, state))
    _set_product(product, pull, cross)
    # one half is added and mirrored: asymmetry by rounding would grow from step to step
    for i in range(state):
        for j in range(i + 1):
            value = covariance[i, j] + product[i, j]
            covariance[i, j] = value
            covariance[j, i] = value


@compiled
def _scratch(rows, state, sequences):
    data = rows - state
    gains = (np.zeros((data, data)), np.empty((data, state)), np.empty((state, state)), np.empty((state, data)),
             np.empty((state, data)), np.empty((data, state)))  # fmt: skip
    filtered = np.empty((state, rows)), np.empty((state, rows)), np.empty((state, state)), np.empty((state, state))
    smoothed = (np.empty((state, rows)), np.empty((rows, rows)), np.empty((rows, rows)), np.empty((state, state)),
                np.empty((state, state)))  # fmt: skip
    squares = np.zeros((state, state)), np.empty((state, state)), np.empty((state, state)), np.empty((state, state))
    return gains, filtered, smoothed, squares, (np.zeros((state, sequences)), np.empty((state, sequences)))


@compiled
def _fill_group(p, solution, out):
    """`fill_smoothed` for the sequences of one group."""
    g, noise_root, initial, factor, settled, mean, whitened, offset = solution
    filtered_means, filtered_covariances, means, covariances, crosses = out
    steps, rows, state = whitened.shape[0], g.shape[2], g.shape[3]
    data, constant = rows - state, g.shape[0] == 1 and noise_root.shape[0] == 1
    gp, np_, cp = min(p, g.shape[1] - 1), min(p, noise_root.shape[1] - 1), min(p, offset.shape[1] - 1)
    gains, filtered, scratch, squares, (r, change) = _scratch(rows, state, whitened.shape[3])
    _, scaled, closed, half, _, _ = gains
    information, before, product, pull = squares
    steady = regular = False
    for t in range(steps - 1, -1, -1):
        gt, root_t = g[min(t, g.shape[0] - 1), gp], noise_root[min(t, noise_root.shape[0] - 1), np_]
        f = factor[min(t, settled[p]), p]
        # once the factors have settled, the filter's part is that of the step after; L_t settles a step later than F_t
        same = constant and settled[p] < t < steps - 1
        if not same:
            spread = initial[p] if t == 0 else factor[min(t - 1, settled[p]), p, data:, data:]
            _set_filtered(f, gt, spread, root_t, gains, filtered)
        filtered_covariances[t, p] = filtered[2]
        filtered_means[t, p] = mean[t, p]
        add_product(filtered_means[t, p], half, whitened[t, p], 1.0)
        means[t, p] = filtered_means[t, p]
        if t == steps - 1:
            covariances[t, p] = filtered[2]
        elif same and steady:
            covariances[t, p], crosses[t, p] = covariances[t + 1, p], crosses[t + 1, p]
            add_transposed_product(means[t, p], filtered[3], r)
        else:
            regular = _set_smoothed(f, filtered, information, scratch, covariances[t, p], crosses[t, p])
            if regular:
                add_transposed_product(means[t, p], filtered[3], r)
            else:
                later = covariances[t + 1, p]
                _set_conditional(root_t, filtered, later, pull, covariances[t, p], crosses[t, p])
                change[:] = means[t + 1, p]
                change -= offset[min(t, offset.shape[0] - 1), cp]
                add_product(change, gt[data:], filtered_means[t, p], -1.0)
                add_product(means[t, p], pull, change, 1.0)
        change[:] = r
        r[:] = 0.0
        add_transposed_product(r, scaled, whitened[t, p])
        add_transposed_product(r, closed, change)
        if not (same and steady):
            pull_information(information, closed, scaled, product, before)
            steady = constant and regular and are_same(information, before)


@compiled
def fill_smoothed(solution, out):
    """Fills out with filtered means and covariances, smoothed ones, and Cov(z_{t+1}, z_t | x).

    solution: G, the roots of N and P_1, F, the steps at which it settles, a_t, w_t and the offset.
    """
    for p in range(solution[6].shape[1]):
        _fill_group(p, solution, out)
