"""The filter of eight sequences at a time, and their log-likelihood.

The step is that of `zoo.parts.kalman.engines.pytorch`: with G = [C; A], N = blockdiag(R, Q) and L L' = Cov(z_t | x_{1:t-1}),

    F F' = (G L) (G L)' + N,    F = [[S^1/2, 0], [K S^1/2, L_{t+1}]],

    w_t = S^-1/2 (y_t - C a_t),    a_{t+1} = A a_t + c_t + K S^1/2 w_t.

Only a segment of the history is kept. Passes back over time run forward through a segment again before they need it.
"""

from typing import Any, NamedTuple

from zoo.parts.kalman.engines.lanes.algebra import (
    cholesky,
    choose_all,
    copy,
    multiply_lower,
    root,
    triangularise,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, Rows, clear, gather, rows_of, scatter, take, take_frames
from zoo.parts.kalman.engines.lanes.vectors import ALL, WIDTH, at, kernel, inlined, log, part, piece


class Inputs(NamedTuple):
    """Model and data, a row for each sequence. offset: c; seen: 1 where a coordinate is observed, else 0."""

    initial_mean: Rows
    initial_covariance: Rows
    transition_matrix: Rows
    transition_covariance: Rows
    emission_matrix: Rows
    emission_covariance: Rows
    y: Rows
    offset: Rows
    seen: Rows


class Sizes(NamedTuple):
    """Numbers of sequences and frames, sizes of z and x, and the length of a segment, a multiple of CHUNK."""

    sequences: int
    steps: int
    state: int
    data: int
    segment: int


class Frames(NamedTuple):
    """The frames of a chunk, as stacks. Fields: those of `Inputs`."""

    transition_matrix: Any
    transition_covariance: Any
    emission_matrix: Any
    emission_covariance: Any
    y: Any
    offset: Any
    seen: Any


class History(NamedTuple):
    """Stacks over the steps of a segment: F_t at t + 1, with L at its beginning in the lower right of entry 0; a_t; w_t."""

    factor: Any
    mean: Any
    white: Any


class Work(NamedTuple):
    """The matrices of a step."""

    g: Any  # G
    noise: Any  # N
    noise_root: Any
    product: Any  # G L
    joint: Any  # F F'
    tall: Any  # [G L, N^1/2]
    other: Any  # F by Householder
    start: Any  # P_1
    sums: Any  # of `add_density`


class Block(NamedTuple):
    """Eight sequences: where they are, and the memory in which they are worked at."""

    first: int
    inputs: Inputs
    sizes: Sizes
    frames: Frames
    history: History
    saved: History  # of the first entry of each segment
    work: Work
    rounding: float


@piece
def take_block(pool, table, sizes, rounding):
    """Memory for a block."""
    n, m, k, segment = sizes.state, sizes.data, sizes.state + sizes.data, sizes.segment
    inputs = Inputs(rows_of(table, 0), rows_of(table, 1), rows_of(table, 2), rows_of(table, 3), rows_of(table, 4),
                    rows_of(table, 5), rows_of(table, 6), rows_of(table, 7), rows_of(table, 8))  # fmt: skip
    frames = Frames(
        take_frames(pool, inputs.transition_matrix, CHUNK + 1, n, n),
        take_frames(pool, inputs.transition_covariance, CHUNK + 1, n, n),
        take_frames(pool, inputs.emission_matrix, CHUNK, m, n),
        take_frames(pool, inputs.emission_covariance, CHUNK, m, m),
        take_frames(pool, inputs.y, CHUNK, m, 1),
        take_frames(pool, inputs.offset, CHUNK + 1, n, 1),
        take_frames(pool, inputs.seen, CHUNK, m, 1),
    )
    segments = (sizes.steps + segment - 1) // segment
    history = History(take(pool, segment + 1, k, k), take(pool, segment + 1, n, 1), take(pool, segment, m, 1))
    saved = History(take(pool, segments, k, k), take(pool, segments, n, 1), take(pool, 0, m, 1))
    work = Work(take(pool, 1, k, n), take(pool, 1, k, k), take(pool, 1, k, k), take(pool, 1, k, n), take(pool, 1, k, k),
                take(pool, 1, k, n + k), take(pool, 1, k, k), take(pool, 1, n, n), take(pool, 1, 3, 1))  # fmt: skip
    # between R and Q, and between their roots, there is nothing
    clear(work.noise, 1)
    clear(work.noise_root, 1)
    return Block(0, inputs, sizes, frames, history, saved, work, rounding)


@piece
def at_sequences(block, first):
    """The block, moved to other sequences."""
    return Block(first, block.inputs, block.sizes, block.frames, block.history, block.saved, block.work, block.rounding)


@piece
def read_chunk(block, start):
    """Gathers the frames of a chunk: of those that lead into z_t one more, since step t needs those of t + 1."""
    first, inputs, frames = block.first, block.inputs, block.frames
    count, more = min(CHUNK, block.sizes.steps - start), min(CHUNK + 1, block.sizes.steps - start)
    gather(inputs.transition_matrix, first, start, more, frames.transition_matrix)
    gather(inputs.transition_covariance, first, start, more, frames.transition_covariance)
    gather(inputs.offset, first, start, more, frames.offset)
    gather(inputs.emission_matrix, first, start, count, frames.emission_matrix)
    gather(inputs.emission_covariance, first, start, count, frames.emission_covariance)
    gather(inputs.y, first, start, count, frames.y)
    gather(inputs.seen, first, start, count, frames.seen)


@inlined
def ahead_of(block, t):
    """The place in its chunk of frame t + 1; the last frame stands in for the one that there is not after it."""
    return t % CHUNK + (1 if t + 1 < block.sizes.steps else 0)


@inlined
def assemble(block, t):
    """G and N of a step: a missing coordinate has no row in C, and unit noise of its own."""
    frames, g, noise = block.frames, block.work.g, block.work.noise
    here, ahead = t % CHUNK, ahead_of(block, t)
    c, r, seen = at(frames.emission_matrix, here), at(frames.emission_covariance, here), at(frames.seen, here)
    m, n = c.rows, c.columns
    for i in range(m):
        for j in range(n):
            g[i, j] = seen[i, 0] * c[i, j]
        for j in range(m):
            noise[i, j] = seen[i, 0] * seen[j, 0] * r[i, j]
        noise[i, i] += 1.0 - seen[i, 0]
    copy(part(g, m, 0, n, n), at(frames.transition_matrix, ahead))
    copy(part(noise, m, m, n, n), at(frames.transition_covariance, ahead))


@inlined
def set_root(block, first, size):
    """The root of N's block of this size on its diagonal; the bits of the lanes where it is a covariance."""
    noise, out = part(block.work.noise, first, first, size, size), block.work.noise_root
    return root(noise, block.rounding, part(out, first, first, size, size))


@inlined
def noise_changes(block):
    frames = block.frames
    return frames.emission_covariance.page + frames.transition_covariance.page + frames.seen.page > 0


@inlined
def set_factor(block, before, factor):
    """F_t from L_t, which stands in the lower right of F_{t-1}."""
    work, m, n = block.work, block.sizes.data, block.sizes.state
    multiply_lower(work.product, work.g, part(before, m, m, n, n))
    for i in range(m + n):
        for j in range(i + 1):
            value = work.noise[i, j]
            for k in range(n):
                value += work.product[i, k] * work.product[j, k]
            work.joint[i, j] = value
    good = cholesky(work.joint, factor)
    # where Cholesky's factor would lose digits, Householder's reflections of [G L, N^1/2]: they never form the joint
    # covariance, and cost about three times as much
    if good != ALL:
        copy(part(work.tall, 0, 0, m + n, n), work.product)
        copy(part(work.tall, 0, n, m + n, m + n), work.noise_root)
        triangularise(work.tall, work.other)
        choose_all(ALL ^ good, work.other, factor)
        for i in range(m):
            work.joint[i, i] = 1.0 / factor[i, i]


@inlined
def set_means(block, t, history, place):
    """w_t and a_{t+1}."""
    g, factor = block.work.g, at(history.factor, place + 1)
    y, offset = at(block.frames.y, t % CHUNK), at(block.frames.offset, ahead_of(block, t))
    mean, after, white = at(history.mean, place), at(history.mean, place + 1), at(history.white, place)
    m, n = y.rows, offset.rows
    for i in range(m):
        value = y[i, 0]
        for j in range(n):
            value -= g[i, j] * mean[j, 0]
        for j in range(i):
            value -= factor[i, j] * white[j, 0]
        white[i, 0] = value * block.work.joint[i, i]  # `cholesky` left 1 / F_ii there
    for i in range(n):
        value = offset[i, 0]
        for j in range(n):
            value += g[m + i, j] * mean[j, 0]
        for j in range(m):
            value += factor[m + i, j] * white[j, 0]
        after[i, 0] = value


@piece
def begin(block):
    """L_1 and a_1; the bits of the lanes where P_1 is a covariance."""
    m, n = block.sizes.data, block.sizes.state
    gather(block.inputs.initial_mean, block.first, 0, 1, at(block.history.mean, 0))
    gather(block.inputs.initial_covariance, block.first, 0, 1, block.work.start)
    return root(block.work.start, block.rounding, part(at(block.history.factor, 0), m, m, n, n))


@piece
def move(target, to, source, place):
    """Sets the beginning of a segment: L and a of one entry are those of another."""
    copy(at(target.factor, to), at(source.factor, place))
    copy(at(target.mean, to), at(source.mean, place))


@piece
def run_segment(block, start):
    """The steps of a segment from entry 0 of the history on; the bits of the lanes where R and Q are covariances."""
    history, fine, m, n = block.history, ALL, block.sizes.data, block.sizes.state
    for t in range(start, min(start + block.sizes.segment, block.sizes.steps)):
        if t % CHUNK == 0:
            read_chunk(block, t)
        assemble(block, t)
        if t == start or noise_changes(block):
            fine &= set_root(block, 0, m) & set_root(block, m, n)
        set_factor(block, at(history.factor, t - start), at(history.factor, t - start + 1))
        set_means(block, t, history, t - start)
    return fine


@piece
def run_all(block, total):
    """All steps, with the beginning of each segment saved and the history of the last one; True if all is well.

    total: takes the log-likelihood without its constant.
    """
    history, segment, sums = block.history, block.sizes.segment, block.work.sums
    fine = begin(block)
    begin_density(sums)
    for start in range(0, block.sizes.steps, segment):
        move(block.saved, start // segment, history, 0)
        fine &= run_segment(block, start)
        stop = min(segment, block.sizes.steps - start)
        for place in range(stop):
            add_density(at(history.factor, place + 1), at(history.white, place), sums)
        if start + stop < block.sizes.steps:
            move(history, 0, history, stop)
    end_density(sums)
    scatter(total, block.first, 0, 1, part(sums, 2, 0, 1, 1))
    return fine == ALL


@piece
def begin_density(sums):
    sums[0, 0] = 1.0
    sums[1, 0] = 0.0
    sums[2, 0] = 0.0


@piece
def add_density(factor, white, sums):
    """Adds a frame to sums: a product of entries F_ii, the sum of squares of w, the logarithms of earlier products."""
    # eight logarithms take as long as a small step: factors are multiplied until digits would be lost
    for i in range(white.rows):
        sums[1, 0] += white[i, 0] * white[i, 0]
        product = sums[0, 0] * factor[i, i]
        if (product > 1e-140) & (product < 1e140) != ALL:
            sums[2, 0] += log(sums[0, 0])
            product = factor[i, i]
        sums[0, 0] = product


@piece
def end_density(sums):
    """Sets the last of the sums to the log-density without its constant."""
    sums[2, 0] = -0.5 * sums[1, 0] - (sums[2, 0] + log(sums[0, 0]))


@kernel
def likelihood(table, results, sizes, rounding, pool):
    """Log-likelihoods, without their constant; True if P_1, Q and R are covariances and the scratch memory sufficed."""
    block = take_block(pool, table, Sizes(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]), rounding)
    fine = pool[0] <= pool[1]
    for first in range(0, sizes[0] if fine else 0, WIDTH):
        fine &= run_all(at_sequences(block, first), rows_of(results, 0))
    return fine
