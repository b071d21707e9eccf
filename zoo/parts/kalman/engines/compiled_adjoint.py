"""The adjoint recursion of `zoo.parts.kalman.engines.pytorch.adjoint`, with its formulas, as compiled loops.

One pass from the last step down carries r and I. All that depends on covariances alone is computed again only while it
changes: gains until the factors have settled, the information and the curvature until the information has.
"""

import numpy as np

from zoo.parts.kalman.engines.small_matrices import (
    EPS,
    add_product,
    add_transposed_product,
    compiled,
    inlined,
    set_inverse_triangular,
    set_times_triangular,
)


@inlined
def _set_gains(factor, g, spread, inverse, gain, closed, scaled, spread_g):
    """Sets inverse, gain, closed, scaled, spread_g = S^-1/2, K, A - K C, S^-1/2 C, G L L', from F, G and L."""
    data = inverse.shape[0]
    set_inverse_triangular(inverse, factor)
    gain[:] = 0.0
    add_product(gain, factor[data:, :data], inverse, 1.0)
    closed[:] = g[data:]
    add_product(closed, gain, g[:data], -1.0)
    scaled[:] = 0.0
    add_product(scaled, inverse, g[:data], 1.0)
    set_times_triangular(spread_g, g, spread)
    # G L L' in place of G L: from the right, since entry j needs the entries up to j
    for i in range(g.shape[0]):
        for j in range(spread.shape[0] - 1, -1, -1):
            value = 0.0
            for k in range(j + 1):
                value += spread_g[i, k] * spread[j, k]
            spread_g[i, j] = value


@inlined
def _set_curvature(information, inverse, gain, spread_g, gained, curvature, curved):
    """Sets curvature = Omega and curved = Omega G P, from I. gained: scratch for I K."""
    data = inverse.shape[0]
    gained[:] = 0.0
    add_product(gained, information, gain, 1.0)
    curvature[:data, :data] = 0.0
    add_transposed_product(curvature[:data, :data], inverse, inverse)
    add_transposed_product(curvature[:data, :data], gain, gained)
    for i in range(information.shape[0]):
        for j in range(data):
            curvature[data + i, j] = curvature[j, data + i] = -gained[i, j]
        for j in range(information.shape[0]):
            curvature[data + i, data + j] = information[i, j]
    curved[:] = 0.0
    add_product(curved, curvature, spread_g, 1.0)


@inlined
def pull_information(information, closed, scaled, product, before):
    """Overwrites information, I_t, by I_{t-1}, and keeps I_t in before. product: scratch."""
    product[:] = 0.0
    add_product(product, information, closed, 1.0)
    before[:] = information
    information[:] = 0.0
    add_transposed_product(information, scaled, scaled)
    add_transposed_product(information, closed, product)


@inlined
def are_same(information, before):
    """Tells whether I_{t-1} and I_t agree to rounding."""
    # entry (i, j) in units of the roots of both diagonal entries, so that the test does not depend on units
    for i in range(information.shape[0]):
        for j in range(information.shape[0]):
            size = np.sqrt(abs(information[i, i] * information[j, j]))
            if not abs(information[i, j] - before[i, j]) <= 2 * EPS * size:
                return False
    return True


@inlined
def _set_initial(weight, total, r, information, d_covariance):
    """Sets d_covariance = the gradient with respect to P_1, and overwrites r by that with respect to m_1."""
    for i in range(d_covariance.shape[0]):
        for j in range(d_covariance.shape[0]):
            value = -total * information[i, j]
            for d in range(r.shape[1]):
                value += weight[d] * r[i, d] * r[j, d]
            d_covariance[i, j] = 0.5 * value
    r *= weight


@compiled
def _scratch(rows, state, sequences):
    data = rows - state
    covariances = (np.zeros((data, data)), np.empty((state, data)), np.empty((state, data)), np.empty((data, state)),
                   np.empty((state, state)), np.empty((state, state)), np.empty((state, state)),
                   np.empty((state, state)))  # fmt: skip
    joint = np.empty((rows, state)), np.empty((rows, state)), np.empty((rows, rows))
    vectors = np.empty((rows, sequences)), np.empty((state, sequences)), np.empty((state, sequences))
    return covariances, joint, vectors


@compiled
def _fill_group(p, solution, weight, matrices, rest, scratch):
    """`fill_adjoint` for the sequences of one group."""
    g, factor, settled, initial, mean, whitened = solution
    d_g, d_noise = matrices
    d_covariance, d_mean, d_y, d_offset = rest
    covariances, (spread_g, curved, curvature), (u, smoothed, half) = scratch
    inverse, gain, gained, scaled, closed, information, product, before = covariances
    steps, sequences, rows, state = whitened.shape[0], whitened.shape[3], g.shape[2], g.shape[3]
    data, gp = rows - state, min(p, g.shape[1] - 1)
    information[:] = 0.0
    r = d_mean[p]  # r_0, times the weights, is the gradient of m_1
    r[:] = 0.0
    total = weight[p].sum()
    steady = False
    for t in range(steps - 1, -1, -1):
        gt, k = g[min(t, g.shape[0] - 1), gp], min(t, d_g.shape[0] - 1)
        spread = initial[p] if t == 0 else factor[min(t - 1, settled[p]), p, data:, data:]
        if t == steps - 1 or t < settled[p] or g.shape[0] > 1:
            steady = False
            _set_gains(factor[min(t, settled[p]), p], gt, spread, inverse, gain, closed, scaled, spread_g)
        if not steady:
            _set_curvature(information, inverse, gain, spread_g, gained, curvature, curved)
            pull_information(information, closed, scaled, product, before)
            steady = g.shape[0] == 1 and are_same(information, before)
        # the rest runs at every step, and in small models it is all that runs: a function of its own would count the
        # references of its arrays at each step, which takes 10 to 20 % of the whole pass of a model with two states
        upper, lower = d_y[t, p], d_offset[t, p]
        u[data:] = r
        u[:data] = 0.0
        add_transposed_product(u[:data], inverse, whitened[t, p])
        add_product(u[:data], gain.T, r, -1.0)
        r[:] = 0.0
        add_transposed_product(r, gt, u)
        smoothed[:] = mean[t, p]
        half[:] = 0.0
        add_transposed_product(half, spread, r)
        add_product(smoothed, spread, half, 1.0)  # E[z_t | x] = a_t + L L' r_{t-1}
        for i in range(data):
            for d in range(sequences):
                upper[i, d] = -weight[p, d] * u[i, d]
        for i in range(state):
            for d in range(sequences):
                lower[i, d] = weight[p, d] * u[data + i, d]
        for i in range(rows):
            side, sign = (upper[i], -1.0) if i < data else (lower[i - data], 1.0)
            for j in range(i + 1):
                value = 0.0
                for d in range(sequences):
                    value += side[d] * u[j, d]
                value = 0.5 * (sign * value - total * curvature[i, j])
                d_noise[k, p, i, j] += value
                d_noise[k, p, j, i] += value if j < i else 0.0
            for j in range(state):
                value = 0.0
                for d in range(sequences):
                    value += side[d] * smoothed[j, d]
                d_g[k, p, i, j] += sign * value - total * curved[i, j]
    _set_initial(weight[p], total, r, information, d_covariance[p])


@compiled
def fill_adjoint(solution, weight, matrices, rest):
    """Adds the gradients of G and N to matrices, and fills rest with those of P_1, m_1, y and the offset.

    solution: G, F, the steps at which it settles, L_1, a_t and w_t.
    """
    g, whitened = solution[0], solution[5]
    scratch = _scratch(g.shape[2], g.shape[3], whitened.shape[3])
    for p in range(whitened.shape[1]):
        _fill_group(p, solution, weight, matrices, rest, scratch)
