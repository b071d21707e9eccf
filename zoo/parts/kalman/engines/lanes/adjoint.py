"""The gradient of the log-likelihood of eight sequences at a time, by the formulas of `engines.pytorch.adjoint`.

With u_t = (S^-1 v_t - K' r_t, r_t) and Omega_t = [[S^-1 + K' I_t K, -K' I_t], [-I_t K, I_t]],

    dN = (u u' - Omega) / 2,    dG = u E[z_t | x]' - Omega G L L',    E[z_t | x] = a_t + L L' r_{t-1}.

Nothing is kept between the value and its gradient: the kernel runs forward again.
"""

from zoo.parts.kalman.engines.lanes.algebra import add_product, clear, copy, multiply
from zoo.parts.kalman.engines.lanes.forward import (
    assemble,
    at_sequences,
    block_of,
    count_segments,
    read_chunk,
    run_again,
    run_all,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, gather, scatter
from zoo.parts.kalman.engines.lanes.moments import pull_future, set_gains
from zoo.parts.kalman.engines.lanes.vectors import WIDTH, at, kernel, part, piece, transposed
from zoo.parts.kalman.engines.lanes.work import INITIAL_COVARIANCE, INITIAL_MEAN, SEEN, WEIGHT, A


@piece
def set_score(block, place):
    """u_t, Omega_t, E[z_t | x] and Omega G L L', and on to r_{t-1} and I_{t-1}."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    factor, spread, upper = at(w.factors, place + 1), part(at(w.factors, place), m, m, n, n), part(w.omega, 0, 0, m, m)
    set_gains(block, place)
    multiply(w.gain, part(factor, m, 0, n, m), w.inverse)
    multiply(part(w.u, 0, 0, m, 1), transposed(w.inverse), at(w.whites, place))
    add_product(part(w.u, 0, 0, m, 1), transposed(w.gain), w.r_future, -1.0)
    copy(part(w.u, m, 0, n, 1), w.r_future)
    multiply(w.gained, w.information, w.gain)
    multiply(upper, transposed(w.inverse), w.inverse)
    add_product(upper, transposed(w.gain), w.gained, 1.0)
    copy(part(w.omega, m, m, n, n), w.information)
    for i in range(n):
        for j in range(m):
            w.omega[m + i, j] = 0.0 - w.gained[i, j]
            w.omega[j, m + i] = w.omega[m + i, j]
    multiply(w.gl, w.g, spread)
    multiply(w.spread_g, w.gl, transposed(spread))
    multiply(w.curved, w.omega, w.spread_g)
    pull_future(block, place)
    multiply(w.pushed, transposed(spread), w.r_future)
    copy(w.smoothed, at(w.means, place))
    add_product(w.smoothed, spread, w.pushed, 1.0)


@piece
def add_emission(block, i):
    """Adds the gradients of C, R and y of a frame; zero where a coordinate is missing."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    u, mean, omega, curved, weight, seen = w.u, w.smoothed, w.omega, w.curved, w.weight[0, 0], at(w.seen, i)
    d_c, d_r, d_y = at(w.d_c, i), at(w.d_r, i), at(w.d_y, i)
    for i in range(m):
        side = weight * seen[i, 0]
        d_y[i, 0] = 0.0 - side * u[i, 0]
        for j in range(n):
            d_c[i, j] += side * (u[i, 0] * mean[j, 0] - curved[i, j])
        for j in range(m):
            d_r[i, j] += 0.5 * side * seen[j, 0] * (u[i, 0] * u[j, 0] - omega[i, j])


@piece
def add_transition(block, ahead):
    """Adds the gradients of A, Q and c at a place in the chunk."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    u, mean, omega, curved, weight = w.u, w.smoothed, w.omega, w.curved, w.weight[0, 0]
    d_a, d_q, d_offset = at(w.d_a, ahead), at(w.d_q, ahead), at(w.d_offset, ahead)
    for i in range(n):
        side = weight * u[m + i, 0]
        d_offset[i, 0] = side
        for j in range(n):
            d_a[i, j] += side * mean[j, 0] - weight * curved[m + i, j]
            d_q[i, j] += 0.5 * (side * u[m + j, 0] - weight * omega[m + i, m + j])


@piece
def clear_sums(work, constant):
    """Sets to zero the gradients of matrices that are constant in time, which are sums, or of those that are not."""
    stacks = work.d_a, work.d_q, work.d_c, work.d_r
    for i in range(4):
        if constant == (stacks[i].page == 0):
            clear(stacks[i], 1 if constant else CHUNK + 1)


@piece
def write_chunk(block, t):
    """Scatters the gradients of a chunk that begins at t; the sums with the first chunk, the last one of this pass."""
    w = block.work
    stacks = w.d_a, w.d_q, w.d_offset, w.d_c, w.d_r, w.d_y
    for i in range(6):
        # A, Q and c of frame t + 1 have their gradients in step t
        lead = 1 if i < 3 else 0
        stack = at(stacks[i], lead)
        if stack.page > 0:
            count = min(CHUNK, block.sizes.steps - lead - t)
            scatter(block.results, A + i, block.first, t + lead, count, stack)
        elif t == 0:
            scatter(block.results, A + i, block.first, 0, 1, stack)


@piece
def score_segment(block, start):
    """The pass back through a segment."""
    steps = block.sizes.steps
    stop = min(start + block.sizes.segment, steps)
    for t in range(stop - 1, start - 1, -1):
        i = t % CHUNK
        if t == stop - 1 or i == CHUNK - 1:
            read_chunk(block, t - i)
            clear_sums(block.work, False)
        assemble(block, t)
        set_score(block, t - start)
        add_emission(block, i)
        if t + 1 < steps:
            add_transition(block, i + 1)
        if i == 0:
            write_chunk(block, t)


@piece
def write_initial(block):
    """The gradients of m_1 and P_1."""
    w, weight = block.work, block.work.weight[0, 0]
    for i in range(block.sizes.n):
        w.d_mean[i, 0] = weight * w.r_future[i, 0]
        for j in range(block.sizes.n):
            square = w.r_future[i, 0] * w.r_future[j, 0]
            w.d_covariance[i, j] = 0.5 * weight * (square - w.information[i, j])
    scatter(block.results, INITIAL_MEAN, block.first, 0, 1, w.d_mean)
    scatter(block.results, INITIAL_COVARIANCE, block.first, 0, 1, w.d_covariance)


@kernel
def gradient(table, results, sizes, letters, rounding, pool):
    """The gradient of the sum of weighted log-likelihoods; True as in `likelihood`."""
    block, fine = block_of(table, results, sizes, letters, rounding, pool), True
    segments, w = count_segments(block.sizes), block.work
    for first in range(0, block.sizes.sequences, WIDTH):
        block = at_sequences(block, first)
        fine &= run_all(block, SEEN)  # the mask has no gradient: its line takes the log-likelihood
        gather(table, WEIGHT, first, 0, 1, w.weight)
        clear(w.r_future, 1)
        clear(w.information, 1)
        clear_sums(w, True)
        for segment in range(segments - 1, -1, -1):
            if segment < segments - 1:
                run_again(block, segment)
            score_segment(block, segment * block.sizes.segment)
        write_initial(block)
    return fine
