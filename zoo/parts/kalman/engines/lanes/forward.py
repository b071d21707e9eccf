"""The filter of eight sequences at a time, and their log-likelihood.

The step is that of `zoo.parts.kalman.engines.pytorch`: with G = [C; A], N = blockdiag(R, Q) and
L L' = Cov(z_t | x_{1:t-1}),

    F F' = (G L) (G L)' + N,    F = [[S^1/2, 0], [K S^1/2, L_{t+1}]],

    w_t = S^-1/2 (y_t - C a_t),    a_{t+1} = A a_t + c_t + K S^1/2 w_t.

The history of one segment is kept. Passes back over time run forward through the other segments once more.
"""

from typing import Any, NamedTuple

from zoo.parts.kalman.engines.lanes.algebra import (
    cholesky,
    choose_all,
    clear,
    copy,
    multiply_lower,
    root,
    triangularise,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, gather, scatter
from zoo.parts.kalman.engines.lanes.vectors import ALL, WIDTH, at, kernel, log, part, piece
from zoo.parts.kalman.engines.lanes.work import INITIAL_COVARIANCE, INITIAL_MEAN, A, lay_out


class Sizes(NamedTuple):
    """Numbers of sequences and frames, sizes of z and x, and the length of a segment, a multiple of CHUNK."""

    sequences: int
    steps: int
    n: int
    m: int
    segment: int


class Block(NamedTuple):
    """Eight sequences from `first` on, the tables of their inputs and results, and the memory they are worked at in."""

    first: int
    table: Any
    results: Any
    sizes: Sizes
    rounding: float
    work: Any


@piece
def block_of(table, results, sizes, letters, rounding, pool):
    """A block that is at no sequences yet. letters: values of `work.letters`. pool: the address of scratch memory."""
    work = lay_out(pool, table, letters)
    # between R and Q, and between their roots, there is nothing
    clear(work.noise, 1)
    clear(work.noise_root, 1)
    return Block(0, table, results, Sizes(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]), rounding, work)


@piece
def at_sequences(block, first):
    """The block at other sequences."""
    return Block(first, block.table, block.results, block.sizes, block.rounding, block.work)


@piece
def count_segments(sizes):
    """The number of segments, the last of which may be shorter."""
    return (sizes.steps + sizes.segment - 1) // sizes.segment


@piece
def read_chunk(block, start):
    """Gathers the frames of a chunk, and the one after them: step t needs A, Q and c of t + 1."""
    w = block.work
    stacks = w.a, w.q, w.offset, w.c, w.r, w.y, w.seen
    for i in range(7):
        gather(block.table, A + i, block.first, start, min(CHUNK + 1, block.sizes.steps - start), stacks[i])


@piece
def ahead_of(block, t):
    """The place in its chunk of frame t + 1; the last frame stands in for the one that there is not after it."""
    return t % CHUNK + (1 if t + 1 < block.sizes.steps else 0)


@piece
def assemble(block, t):
    """G and N of a step: a missing coordinate has no row in C, and unit noise of its own."""
    w, m, n, ahead = block.work, block.sizes.m, block.sizes.n, ahead_of(block, t)
    g, noise, c, r, seen = w.g, w.noise, at(w.c, t % CHUNK), at(w.r, t % CHUNK), at(w.seen, t % CHUNK)
    for i in range(m):
        for j in range(n):
            g[i, j] = seen[i, 0] * c[i, j]
        for j in range(m):
            noise[i, j] = seen[i, 0] * seen[j, 0] * r[i, j]
        noise[i, i] += 1.0 - seen[i, 0]
    copy(part(g, m, 0, n, n), at(w.a, ahead))
    copy(part(noise, m, m, n, n), at(w.q, ahead))


@piece
def set_root(block, first, size):
    """The root of R (first 0) or Q (first m) from N; the bits of the lanes where it is a covariance."""
    w = block.work
    return root(part(w.noise, first, first, size, size), block.rounding, part(w.noise_root, first, first, size, size))


@piece
def noise_changes(work):
    """Tells whether N differs from step to step."""
    return work.r.page + work.q.page + work.seen.page > 0


@piece
def set_factor(block, place):
    """F_t from L_t, which stands in the lower right of F_{t-1}."""
    w, m, n, factor = block.work, block.sizes.m, block.sizes.n, at(block.work.factors, place + 1)
    gl, noise, joint = w.gl, w.noise, w.joint
    multiply_lower(gl, w.g, part(at(w.factors, place), m, m, n, n))
    for i in range(m + n):
        for j in range(i + 1):
            value = noise[i, j]
            for k in range(n):
                value += gl[i, k] * gl[j, k]
            joint[i, j] = value
    good = cholesky(joint, factor)
    # where Cholesky's factor would lose digits, Householder's reflections of [G L, N^1/2]: they never form the joint
    # covariance, and cost about three times as much
    if good != ALL:
        copy(part(w.tall, 0, 0, m + n, n), gl)
        copy(part(w.tall, 0, n, m + n, m + n), w.noise_root)
        triangularise(w.tall, w.other)
        choose_all(ALL ^ good, w.other, factor)
        for i in range(m):
            joint[i, i] = 1.0 / factor[i, i]


@piece
def set_means(block, t, place):
    """w_t and a_{t+1}."""
    w, m, n, factor = block.work, block.sizes.m, block.sizes.n, at(block.work.factors, place + 1)
    y, offset, mean, after = (
        at(w.y, t % CHUNK),
        at(w.offset, ahead_of(block, t)),
        at(w.means, place),
        at(w.means, place + 1),
    )
    g, joint, white = w.g, w.joint, at(w.whites, place)
    for i in range(m):
        value = y[i, 0]
        for j in range(n):
            value -= g[i, j] * mean[j, 0]
        for j in range(i):
            value -= factor[i, j] * white[j, 0]
        white[i, 0] = value * joint[i, i]  # `cholesky` left 1 / F_ii there
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
    w, m, n = block.work, block.sizes.m, block.sizes.n
    gather(block.table, INITIAL_MEAN, block.first, 0, 1, w.means)
    gather(block.table, INITIAL_COVARIANCE, block.first, 0, 1, w.start)
    return root(w.start, block.rounding, part(w.factors, m, m, n, n))


@piece
def run_segment(block, start):
    """The steps of a segment from entry 0 of the history on; the bits of the lanes where R and Q are covariances."""
    fine = ALL
    for t in range(start, min(start + block.sizes.segment, block.sizes.steps)):
        if t % CHUNK == 0:
            read_chunk(block, t)
        assemble(block, t)
        if t == start or noise_changes(block.work):
            fine &= set_root(block, 0, block.sizes.m) & set_root(block, block.sizes.m, block.sizes.n)
        set_factor(block, t - start)
        set_means(block, t, t - start)
    return fine


@piece
def run_again(block, segment):
    """Runs from the saved beginning of a segment."""
    copy(at(block.work.factors, 0), at(block.work.saved_factors, segment))
    copy(at(block.work.means, 0), at(block.work.saved_means, segment))
    run_segment(block, segment * block.sizes.segment)


@piece
def run_all(block, total):
    """All steps; saves where each segment begins, and leaves the history of the last. True if all is well.

    total: the line of the results that takes the log-likelihood without its constant.
    """
    w, fine = block.work, begin(block)
    begin_density(w.sums)
    for segment in range(count_segments(block.sizes)):
        start = segment * block.sizes.segment
        copy(at(w.saved_factors, segment), at(w.factors, 0))
        copy(at(w.saved_means, segment), at(w.means, 0))
        fine &= run_segment(block, start)
        steps = min(block.sizes.segment, block.sizes.steps - start)
        for place in range(steps):
            add_density(at(w.factors, place + 1), at(w.whites, place), w.sums)
        if start + steps < block.sizes.steps:
            copy(at(w.factors, 0), at(w.factors, steps))
            copy(at(w.means, 0), at(w.means, steps))
    end_density(w.sums)
    scatter(block.results, total, block.first, 0, 1, part(w.sums, 2, 0, 1, 1))
    return fine == ALL


@piece
def begin_density(sums):
    """Sets the sums of `add_density` to those of no frame."""
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
def likelihood(table, results, sizes, letters, rounding, pool):
    """Log-likelihoods, without their constant; True if P_1, Q and R are covariances."""
    block, fine = block_of(table, results, sizes, letters, rounding, pool), True
    for first in range(0, block.sizes.sequences, WIDTH):
        fine &= run_all(at_sequences(block, first), 0)
    return fine
