"""Filter and smoother of eight sequences at a time.

The smoother is that of `zoo.parts.kalman.moments.Backward`: Bryson & Frazier, and Rauch, Tung & Striebel in the lanes
where the first would lose digits. With f_t, P, r_t and I_t as there and L L' = Cov(z_{t+1} | x_{1:t}),

    E[z_t | x] = f_t + P A' r_t,    Cov(z_t | x) = P - P A' I_t A P,    Cov(z_{t+1}, z_t | x) = (1 - L L' I_t) A P,

    r_{t-1} = C' S^-1/2' w_t + (A - K C)' r_t,    I_{t-1} = C' S^-1 C + (A - K C)' I_t (A - K C),    r_T = I_T = 0.
"""

from zoo.parts.kalman.engines.lanes.algebra import (
    add_product,
    cholesky,
    choose_all,
    clear,
    copy,
    invert_lower,
    mirror,
    multiply,
    square,
    triangularise,
)
from zoo.parts.kalman.engines.lanes.forward import (
    add_density,
    ahead_of,
    assemble,
    at_sequences,
    begin,
    begin_density,
    block_of,
    count_segments,
    end_density,
    noise_changes,
    read_chunk,
    run_again,
    run_all,
    run_segment,
    set_root,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, scatter
from zoo.parts.kalman.engines.lanes.vectors import ALL, WIDTH, at, choose, kernel, part, piece, transposed


@piece
def set_gains(block, place):
    """S^-1/2, S^-1/2 C and A - K C."""
    w, m, n, factor = block.work, block.sizes.m, block.sizes.n, at(block.work.factors, place + 1)
    invert_lower(w.inverse, factor)
    multiply(w.scaled, w.inverse, part(w.g, 0, 0, m, n))
    copy(w.closed, part(w.g, m, 0, n, n))
    add_product(w.closed, part(factor, m, 0, n, m), w.scaled, -1.0)


@piece
def pull_future(block, place):
    """Goes from r_t and I_t to r_{t-1} and I_{t-1}."""
    w = block.work
    multiply(w.nn, w.information, w.closed)
    multiply(w.information, transposed(w.closed), w.nn)
    add_product(w.information, transposed(w.scaled), w.scaled, 1.0)
    mirror(w.information)
    copy(w.n1, w.r_future)
    multiply(w.r_future, transposed(w.closed), w.n1)
    add_product(w.r_future, transposed(w.scaled), at(w.whites, place), 1.0)


@piece
def update(block, place):
    """Moments of p(z_t | x_{1:t})."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    spread = part(at(w.factors, place), m, m, n, n)
    multiply(w.mn, w.scaled, spread)
    multiply(w.half, spread, transposed(w.mn))
    multiply(w.gain, w.half, w.inverse)
    # Joseph: (1 - K C) L beside K R^1/2, with the gain K of this update, is a sum of squares for any gain
    multiply(w.mn, part(w.g, 0, 0, m, n), spread)
    copy(part(w.root, 0, 0, n, n), spread)
    add_product(part(w.root, 0, 0, n, n), w.gain, w.mn, -1.0)
    multiply(part(w.root, 0, n, n, m), w.gain, part(w.noise_root, 0, 0, m, m))
    square(w.p, w.root)
    copy(w.f, at(w.means, place))
    add_product(w.f, w.half, at(w.whites, place), 1.0)


@piece
def set_kept(block):
    """A root of 1 - root' A' I_t A root; the bits of the lanes that lose no digits."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    moved, product, kept, inner = w.moved, w.nk, w.kept, w.inner
    multiply(moved, part(w.g, m, 0, n, n), w.root)
    multiply(product, w.information, moved)
    for i in range(m + n):
        for j in range(i + 1):
            value = 1.0 if i == j else 0.0
            for k in range(n):
                value -= moved[k, i] * product[k, j]
            kept[i, j] = value
    good = cholesky(kept, inner)
    for i in range(m + n):
        # the criterion of `zoo.parts.kalman.moments.backward`: the future has left a thousandth of a variance
        good &= inner[i, i] * inner[i, i] > 1e-3
    return good


@piece
def smooth(block, place):
    """Moments given all of x, by Bryson & Frazier."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    multiply(w.nk, w.root, w.inner)
    square(w.covariance, w.nk)
    multiply(w.cross, part(w.g, m, 0, n, n), w.p)
    copy(w.mean, w.f)
    add_product(w.mean, transposed(w.cross), w.r_future, 1.0)
    square(w.ahead, part(at(w.factors, place + 1), m, m, n, n))
    multiply(w.nn, w.information, w.cross)
    add_product(w.cross, w.ahead, w.nn, -1.0)


@piece
def condition(block, t):
    """The same by Rauch, Tung & Striebel, from the smoothed moments of z_{t+1}: by factors, for diffuse starts."""
    w, m, n = block.work, block.sizes.m, block.sizes.n
    set_root(block, m, n)
    clear(w.both, 1)
    multiply(part(w.both, 0, 0, n, n + m), part(w.g, m, 0, n, n), w.root)
    copy(part(w.both, 0, n + m, n, n), part(w.noise_root, m, m, n, n))
    copy(part(w.both, n, 0, n, n + m), w.root)
    # the blocks are a root of Cov(z_{t+1} | x_{1:t}), J times that root, and a root of Cov(z_t | x_{1:t}, z_{t+1})
    triangularise(w.both, w.triangle)
    for j in range(n - 1, -1, -1):
        # a direction without noise says nothing new: its column is zero
        pivot = choose(w.triangle[j, j] > 0.0, w.triangle[j, j], 1.0)
        for i in range(n):
            value = w.triangle[n + i, j]
            for k in range(j + 1, n):
                value -= w.pull[i, k] * w.triangle[k, j]
            w.pull[i, j] = value / pivot
    multiply(w.cross2, w.covariance, transposed(w.pull))
    square(w.covariance2, part(w.triangle, n, n, n, n))
    add_product(w.covariance2, w.pull, w.cross2, 1.0)
    mirror(w.covariance2)
    copy(w.change, w.mean)
    add_product(w.change, part(w.g, m, 0, n, n), w.f, -1.0)
    for i in range(n):
        w.change[i, 0] -= at(w.offset, ahead_of(block, t))[i, 0]
    copy(w.mean2, w.f)
    add_product(w.mean2, w.pull, w.change, 1.0)


@piece
def fill_filtered(block, t):
    """An entry of the results of a chunk, which is a segment here."""
    w, m, n, i = block.work, block.sizes.m, block.sizes.n, t % CHUNK
    assemble(block, t)
    if noise_changes(w):
        set_root(block, 0, m)
    begin_density(w.sums)
    add_density(at(w.factors, i + 1), at(w.whites, i), w.sums)
    end_density(w.sums)
    copy(at(w.out_increment, i), part(w.sums, 2, 0, 1, 1))
    copy(at(w.out_mean, i), at(w.means, i))
    square(at(w.out_covariance, i), part(at(w.factors, i), m, m, n, n))
    set_gains(block, i)
    update(block, i)
    copy(at(w.out_f, i), w.f)
    copy(at(w.out_p, i), w.p)


@kernel
def filtering(table, results, sizes, letters, rounding, pool):
    """Densities without their constant, predicted and filtered moments; True as in `likelihood`.

    A segment is a chunk.
    """
    block, fine = block_of(table, results, sizes, letters, rounding, pool), True
    steps, w = block.sizes.steps, block.work
    out = w.out_increment, w.out_mean, w.out_covariance, w.out_f, w.out_p
    for first in range(0, block.sizes.sequences, WIDTH):
        block = at_sequences(block, first)
        fine &= begin(block) == ALL
        for start in range(0, steps, CHUNK):
            count = min(CHUNK, steps - start)
            fine &= run_segment(block, start) == ALL
            for i in range(count):
                fill_filtered(block, start + i)
            for k in range(5):
                scatter(results, k, first, start, count, out[k])
            copy(at(w.factors, 0), at(w.factors, count))
            copy(at(w.means, 0), at(w.means, count))
    return fine


@piece
def fill_smoothed(block, t, place):
    """An entry of the results of a chunk; goes on to what the future says of z_{t-1}."""
    w, i = block.work, t % CHUNK
    assemble(block, t)
    if noise_changes(w):
        set_root(block, 0, block.sizes.m)
    set_gains(block, place)
    update(block, place)
    if t == block.sizes.steps - 1:
        copy(w.mean, w.f)
        copy(w.covariance, w.p)
    else:
        good = set_kept(block)
        if good != ALL:
            # first, since it starts from the moments of z_{t+1}, which the other way overwrites
            condition(block, t)
        smooth(block, place)
        if good != ALL:
            choose_all(ALL ^ good, w.mean2, w.mean)
            choose_all(ALL ^ good, w.covariance2, w.covariance)
            choose_all(ALL ^ good, w.cross2, w.cross)
    copy(at(w.out_f, i), w.f)
    copy(at(w.out_p, i), w.p)
    copy(at(w.out_mean, i), w.mean)
    copy(at(w.out_covariance, i), w.covariance)
    copy(at(w.out_cross, i), w.cross)
    pull_future(block, place)


@piece
def smooth_segment(block, start):
    """The pass back through a segment."""
    w, sizes = block.work, block.sizes
    out = w.out_f, w.out_p, w.out_mean, w.out_covariance, w.out_cross
    stop = min(start + sizes.segment, sizes.steps)
    for t in range(stop - 1, start - 1, -1):
        if t == stop - 1 or t % CHUNK == CHUNK - 1:
            read_chunk(block, t - t % CHUNK)
        fill_smoothed(block, t, t - start)
        if t % CHUNK == 0:
            for k in range(5):
                # nothing comes after the last frame
                count = min(CHUNK, sizes.steps - t - (1 if k == 4 else 0))
                scatter(block.results, k + 1, block.first, t, count, out[k])


@kernel
def smoothing(table, results, sizes, letters, rounding, pool):
    """Log-likelihoods without their constant, filtered and smoothed moments; True as in `likelihood`."""
    block, fine = block_of(table, results, sizes, letters, rounding, pool), True
    segments = count_segments(block.sizes)
    for first in range(0, block.sizes.sequences, WIDTH):
        block = at_sequences(block, first)
        fine &= run_all(block, 0)
        clear(block.work.r_future, 1)
        clear(block.work.information, 1)
        for segment in range(segments - 1, -1, -1):
            if segment < segments - 1:
                run_again(block, segment)
            smooth_segment(block, segment * block.sizes.segment)
    return fine
