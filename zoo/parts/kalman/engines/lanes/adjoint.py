"""The gradient of the log-likelihood of eight sequences at a time, by the formulas of `engines.pytorch.adjoint`.

With u_t = (S^-1 v_t - K' r_t, r_t) and Omega_t = [[S^-1 + K' I_t K, -K' I_t], [-I_t K, I_t]],

    dN = (u u' - Omega) / 2,    dG = u E[z_t | x]' - Omega G L L',    E[z_t | x] = a_t + L L' r_{t-1}.

Nothing is kept between the value and its gradient: the kernel runs forward again.
"""

from typing import Any, NamedTuple

from zoo.parts.kalman.engines.lanes.algebra import add_product, copy, multiply
from zoo.parts.kalman.engines.lanes.backward import begin_future, pull, set_gains, take_future, take_gains
from zoo.parts.kalman.engines.lanes.forward import (
    Inputs,
    Sizes,
    assemble,
    at_sequences,
    move,
    read_chunk,
    run_all,
    run_segment,
    take_block,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, clear, gather, rows_of, scatter, take, take_frames
from zoo.parts.kalman.engines.lanes.vectors import WIDTH, at, inlined, kernel, part, piece, transposed


class Score(NamedTuple):
    """The matrices of a step."""

    u: Any
    omega: Any
    mean: Any  # E[z_t | x]
    spread_g: Any  # G L L'
    product: Any
    half: Any  # L' r_{t-1}
    gained: Any  # I K
    curved: Any  # Omega G L L'
    weight: Any  # of each sequence's log-likelihood
    initial_mean: Any
    initial_covariance: Any


class Gradients(NamedTuple):
    """The gradients of a chunk, as stacks; those of matrices that are constant in time are sums."""

    transition_matrix: Any
    transition_covariance: Any
    emission_matrix: Any
    emission_covariance: Any
    y: Any
    offset: Any


@piece
def take_score(pool, n, m):
    k = n + m
    return Score(take(pool, 1, k, 1), take(pool, 1, k, k), take(pool, 1, n, 1), take(pool, 1, k, n), take(pool, 1, k, n),
                 take(pool, 1, n, 1), take(pool, 1, n, m), take(pool, 1, k, n), take(pool, 1, 1, 1), take(pool, 1, n, 1),
                 take(pool, 1, n, n))  # fmt: skip


@piece
def take_gradients(pool, inputs, n, m):
    return Gradients(
        take_frames(pool, inputs.transition_matrix, CHUNK + 1, n, n),
        take_frames(pool, inputs.transition_covariance, CHUNK + 1, n, n),
        take_frames(pool, inputs.emission_matrix, CHUNK + 1, m, n),
        take_frames(pool, inputs.emission_covariance, CHUNK + 1, m, m),
        take(pool, CHUNK, m, 1),
        take(pool, CHUNK + 1, n, 1),
    )


@inlined
def set_score(block, place, gains, future, score):
    """u_t, Omega_t, E[z_t | x], Omega G L L', and on to r_{t-1} and I_{t-1}."""
    m, n, g, omega = block.sizes.data, block.sizes.state, block.work.g, score.omega
    history, white = block.history, at(block.history.white, place)
    factor, spread = at(history.factor, place + 1), part(at(history.factor, place), m, m, n, n)
    set_gains(g, factor, gains)
    multiply(gains.gain, part(factor, m, 0, n, m), gains.inverse)
    multiply(part(score.u, 0, 0, m, 1), transposed(gains.inverse), white)
    add_product(part(score.u, 0, 0, m, 1), transposed(gains.gain), future.mean, -1.0)
    copy(part(score.u, m, 0, n, 1), future.mean)
    multiply(score.gained, future.information, gains.gain)
    multiply(part(omega, 0, 0, m, m), transposed(gains.inverse), gains.inverse)
    add_product(part(omega, 0, 0, m, m), transposed(gains.gain), score.gained, 1.0)
    copy(part(omega, m, m, n, n), future.information)
    for i in range(n):
        for j in range(m):
            omega[m + i, j] = omega[j, m + i] = 0.0 - score.gained[i, j]
    multiply(score.product, g, spread)
    multiply(score.spread_g, score.product, transposed(spread))
    multiply(score.curved, omega, score.spread_g)
    pull(gains, white, future)
    multiply(score.half, transposed(spread), future.mean)
    copy(score.mean, at(history.mean, place))
    add_product(score.mean, spread, score.half, 1.0)


@inlined
def add_emission(block, i, score, gradients):
    """Adds the gradients of C, R and y of a frame; none where a coordinate is missing."""
    seen, u, weight = at(block.frames.seen, i), score.u, score.weight[0, 0]
    d_c, d_r, d_y = at(gradients.emission_matrix, i), at(gradients.emission_covariance, i), at(gradients.y, i)
    for i in range(d_c.rows):
        side = weight * seen[i, 0]
        d_y[i, 0] = 0.0 - side * u[i, 0]
        for j in range(d_c.columns):
            d_c[i, j] += side * (u[i, 0] * score.mean[j, 0] - score.curved[i, j])
        for j in range(d_c.rows):
            d_r[i, j] += 0.5 * side * seen[j, 0] * (u[i, 0] * u[j, 0] - score.omega[i, j])


@inlined
def add_transition(ahead, m, score, gradients):
    """Adds the gradients of A, Q and c at a place in the chunk."""
    d_a, d_q = at(gradients.transition_matrix, ahead), at(gradients.transition_covariance, ahead)
    u, d_offset, weight = score.u, at(gradients.offset, ahead), score.weight[0, 0]
    for i in range(d_a.rows):
        side = weight * u[m + i, 0]
        d_offset[i, 0] = side
        for j in range(d_a.columns):
            d_a[i, j] += side * score.mean[j, 0] - weight * score.curved[m + i, j]
            d_q[i, j] += 0.5 * (side * u[m + j, 0] - weight * score.omega[m + i, m + j])


@piece
def begin_frames(gradients, constant):
    """Sets to zero the sums, or those stacks that change in time."""
    for stack in (gradients.transition_matrix, gradients.transition_covariance, gradients.emission_matrix, gradients.emission_covariance):
        if constant and stack.page == 0:
            clear(stack, 1)
        elif not constant and stack.page > 0:
            clear(stack, CHUNK + 1)


@piece
def write_frames(block, t, gradients, results):
    """Scatters the gradients of a chunk that begins at t; sums with the first chunk, the last one of this pass."""
    first, count = block.first, min(CHUNK, block.sizes.steps - t)
    write(rows_of(results, 4), first, t, count, gradients.emission_matrix)
    write(rows_of(results, 5), first, t, count, gradients.emission_covariance)
    scatter(rows_of(results, 6), first, t, count, gradients.y)
    more = min(CHUNK, block.sizes.steps - 1 - t)
    write(rows_of(results, 2), first, t + 1, more, at(gradients.transition_matrix, 1))
    write(rows_of(results, 3), first, t + 1, more, at(gradients.transition_covariance, 1))
    scatter(rows_of(results, 7), first, t + 1, more, at(gradients.offset, 1))


@piece
def write(rows, first, t, count, stack):
    if stack.page > 0:
        scatter(rows, first, t, count, stack)
    elif t <= 1:
        scatter(rows, first, 0, 1, stack)


@piece
def score_segment(block, start, state, results):
    """The pass back through a segment."""
    gains, future, score, gradients = state
    sizes = block.sizes
    stop = min(start + sizes.segment, sizes.steps)
    for s in range(stop - start):
        t = stop - 1 - s
        i = t % CHUNK
        if s == 0 or i == CHUNK - 1:
            read_chunk(block, t - i)
            begin_frames(gradients, False)
        assemble(block, t)
        set_score(block, t - start, gains, future, score)
        add_emission(block, i, score, gradients)
        if t + 1 < sizes.steps:
            add_transition(i + 1, sizes.data, score, gradients)
        if i == 0:
            write_frames(block, t, gradients, results)


@piece
def write_initial(block, future, score, results):
    """The gradients of m_1 and P_1."""
    r, weight = future.mean, score.weight[0, 0]
    for i in range(r.rows):
        score.initial_mean[i, 0] = weight * r[i, 0]
        for j in range(r.rows):
            score.initial_covariance[i, j] = 0.5 * weight * (r[i, 0] * r[j, 0] - future.information[i, j])
    scatter(rows_of(results, 0), block.first, 0, 1, score.initial_mean)
    scatter(rows_of(results, 1), block.first, 0, 1, score.initial_covariance)


@kernel
def gradient(table, results, sizes, rounding, pool):
    """The gradient of the sum of weighted log-likelihoods; the last line of the table is the weights."""
    sizes = Sizes(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
    block = take_block(pool, table, sizes, rounding)
    n, m = sizes.state, sizes.data
    state = take_gains(pool, n, m), take_future(pool, n), take_score(pool, n, m), take_gradients(pool, block.inputs, n, m)
    _, future, score, gradients = state
    fine = pool[0] <= pool[1]
    for first in range(0, sizes.sequences if fine else 0, WIDTH):
        block = at_sequences(block, first)
        fine &= run_all(block, rows_of(results, 8))
        gather(rows_of(table, 9), first, 0, 1, score.weight)
        begin_future(future)
        begin_frames(gradients, True)
        for s in range((sizes.steps + sizes.segment - 1) // sizes.segment):
            start = ((sizes.steps - 1) // sizes.segment - s) * sizes.segment
            if s > 0:
                move(block.history, 0, block.saved, start // sizes.segment)
                run_segment(block, start)
            score_segment(block, start, state, results)
        write_initial(block, future, score, results)
    return fine
